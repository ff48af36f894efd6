"""When to retrain: the clock, and whether anything new has arrived."""
