"""When and in what order: Prefect flows and deployments."""
