"""Engines: what samples responses."""
