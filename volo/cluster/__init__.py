"""Ray: connecting to a cluster, the trainer around the loop, analysis over workers.

Ray reads these variables when it is imported, so they are set before any module of this package imports it.
"""

import os

# Despite its name, on every system: with 0, Ray binds what this process starts to 127.0.0.1. A driver that joins a
# cluster takes its address from the cluster's node, so there it changes nothing.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
# Messages that a driver does not repeat from other nodes. The waiting driver itself reports the loss of a worker or
# node, together with the remedy.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task|The node with node id: "
)
