"""A small simulated world: requests, responses of varying quality, annotators who disagree, and the gold
reward."""

from plumbline.preferences.simulated.annotators import rows
from plumbline.preferences.simulated.gold import gold_parts, gold_reward
from plumbline.preferences.simulated.world import kind_of

__all__ = ["gold_parts", "gold_reward", "kind_of", "rows"]
