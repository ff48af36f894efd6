"""Telling others: events on Prefect's server, webhooks."""
