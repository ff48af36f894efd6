"""One run of the pipeline: its workspace, its stages, how it ends, how it is retried, restored, cancelled."""
