-- Beside Prefect's database, which the server makes: one for MLflow, one for the feedback pages.
CREATE DATABASE mlflow;
CREATE DATABASE feedback;
