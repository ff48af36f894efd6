"""Feedback: pairs of answers for people to judge, and their verdicts on the way to preference data."""
