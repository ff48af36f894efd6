"""A small simulated world: requests, responses of varying quality, annotators who disagree, and the gold reward."""
