"""Helpers that tests and benchmarks share: made-up projects, running services, small models, sites."""
