"""The preference data over time: what arrived, by which door, what changed, which models learned from it."""
