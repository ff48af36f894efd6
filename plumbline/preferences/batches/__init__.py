"""Immutable batches of rows, what holds of them now, and the snapshots that runs learn from."""
