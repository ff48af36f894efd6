"""Training on several ranks: processes of torchrun, each with its rows and its part of the weights."""
