"""Recipes on public data: each makes its files, and brings judges that the training never meets."""
