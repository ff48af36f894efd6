"""From a snapshot to data that stages train on."""
