"""Bytes: push and pull to DVC remotes, and gc."""
