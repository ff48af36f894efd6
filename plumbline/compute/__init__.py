"""Where a stage runs: on how many processes and machines, and who starts them."""
