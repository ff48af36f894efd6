"""Preference data: types, import, snapshots, splits, and a simulated world to try it all on."""
