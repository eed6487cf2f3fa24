"""Ray: connecting to a cluster, the trainer around the loop, analysis over workers."""

import os

# Ray reads this when it is imported: what a driver shall not repeat of what nodes say. That a worker or a node is gone
# is told by who waits for it, with what to do.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task|The node with node id: "
)
