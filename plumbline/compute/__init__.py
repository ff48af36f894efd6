"""Where a stage runs, on how many processes and machines, who starts them, and what it needs there."""
