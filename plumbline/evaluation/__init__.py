"""Is it better? Examination of reward models, judges, win rates, and the statistics behind them."""
