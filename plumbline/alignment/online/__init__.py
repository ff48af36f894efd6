"""Methods by which the policy learns from its own answers: PPO and what stands beside it."""
