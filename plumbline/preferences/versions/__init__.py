"""Comparing, browsing and exporting versions of the data."""
