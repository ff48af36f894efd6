"""Writing to MLflow: runs, models, the registry, and what waits while MLflow is away."""
