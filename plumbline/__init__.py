"""Plumbline: keep a language model aligned with human preferences, and know which data made which model."""

__version__ = "0.1.0"
