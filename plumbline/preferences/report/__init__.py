"""The report on a snapshot: counts, agreement, damage, gates."""
