"""Human feedback: pairs of answers to judge, the store of verdicts, and their way into the preference data."""
