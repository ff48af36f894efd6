"""Where the files of a project are, and small tools: home, locks, digests, processes, the record of a run."""
