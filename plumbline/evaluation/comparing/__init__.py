"""Several policies side by side."""
