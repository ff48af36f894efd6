"""Exports of annotation tools: which question judges, which fields are the responses."""
