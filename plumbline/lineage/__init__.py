"""Which data made which model: workspaces, receipts, and the records kept in DVC and MLflow."""
