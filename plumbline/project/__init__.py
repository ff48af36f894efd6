"""Where the files of a project are, and the small tools that everything stands on: home, locks, digests, processes."""
