"""One file a stage: its Prefect task, and the program that dvc.yaml runs."""
