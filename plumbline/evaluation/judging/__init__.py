"""Who decides which of two answers is better."""
