"""The lineage itself: what was made, from what, as a graph."""
