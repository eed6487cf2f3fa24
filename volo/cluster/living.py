"""The nodes of the connected cluster: which ones there are, and which are gone, even if Ray has not noticed yet."""

import socket
from typing import Any

import ray

ANSWER_S = 3.0


def this_node() -> str:
    """Ray's id of this process's node; empty without a connection."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def living_nodes() -> set[str]:
    """The ids of the nodes that answer: after a node's end, Ray goes on listing it as alive for many seconds. None
    without a connection."""
    return {node["NodeID"] for node in ray.nodes() if _lives(node)} if ray.is_initialized() else set()


def is_gone(node_id: str) -> bool:
    """Whether a node that Ray knows is no longer there. False for any other id, and without a connection."""
    if not node_id or not ray.is_initialized():
        return False
    return any(node["NodeID"] == node_id and not _lives(node) for node in ray.nodes())


def _lives(node: dict[str, Any]) -> bool:
    return node["Alive"] and _answers(node["NodeManagerAddress"], node["NodeManagerPort"])


def _answers(host: str, port: int) -> bool:
    """Whether anyone listens where Ray's own process on a node does."""
    try:
        socket.create_connection((host, port), ANSWER_S).close()
    except OSError:
        return False
    return True
