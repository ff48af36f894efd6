"""Reading MLflow back, for the pages and the command line."""
