"""Ray: connecting to a cluster, the trainer around the loop, analysis over workers."""
