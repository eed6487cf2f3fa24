"""Asks the nodes of the connected cluster, by one small task each."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from volo.errors import cut

HEAD = "node:__internal_head__"  # a resource that only the head has
TASKS_S = 8.0
ID_LETTERS = 8


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        address: By which Ray knows it.
        name: Its address, with the beginning of its identifier if others have the same.
    """

    id: str
    address: str
    name: str
    num_cpus: int
    num_gpus: int
    is_head: bool


@dataclass(frozen=True)
class Answer:
    """What a node said to a question.

    Attributes:
        value: What the function returned there; None if it did not.
        fault: Why it did not, in words; empty if it did.
        asked, answered: When, by this machine's clock.
    """

    value: Any
    fault: str
    asked: float
    answered: float


def alive_nodes() -> list[Node]:
    """Those of the connected cluster, the head first."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    counts = Counter(node["NodeManagerAddress"] for node in alive)
    nodes = [_node(node, counts[node["NodeManagerAddress"]] > 1) for node in alive]
    return sorted(nodes, key=lambda node: (not node.is_head, node.name))


def _node(node: dict[str, Any], shares_address: bool) -> Node:
    address, resources = node["NodeManagerAddress"], node["Resources"]
    return Node(
        id=node["NodeID"],
        address=address,
        name=f"{address} (node {node['NodeID'][:ID_LETTERS]})" if shares_address else address,
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=int(resources.get("GPU", 0)),
        is_head=HEAD in resources,
    )


def on_node(node: Node) -> Any:
    """What has Ray run a task or an actor there, or nowhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def ask(
    nodes: Sequence[Node],
    function: Callable,
    arguments: Callable[[Node], tuple] = lambda node: (),
    limit_s: float = TASKS_S,
) -> dict[Node, Answer]:
    """What a function returns on each node, or why it does not, in the nodes' order.

    Args:
        function: A module's; or, for nodes that may not have the module, a nested one, whose code Ray sends along.
        arguments: What it is given on a node.
        limit_s: How long to wait for the answers.
    """
    import ray

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    began = time.monotonic()
    asked = {}
    for node in nodes:
        asked[task.options(scheduling_strategy=on_node(node)).remote(*arguments(node))] = node, time.time()
    answers, left = {}, list(asked)
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=max(0.0, began + limit_s - time.monotonic()))
        if not done:
            break
        node, at = asked[done[0]]
        answered = time.time()
        try:
            answers[node] = Answer(ray.get(done[0]), "", at, answered)
        except ray.exceptions.RayError as error:
            answers[node] = Answer(None, f"failed there: {reason(error)}", at, answered)
    silent = Answer(None, f"did not answer within {limit_s:g} s", 0.0, 0.0)
    return {node: answers.get(node, silent) for node in nodes}


def reason(error: Exception) -> str:
    """Of a task's or an actor's failure, in one line."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {cut(lines[0] if lines else 'no message')}"


def faults(answers: dict[Node, Answer]) -> list[str]:
    """Of the nodes that did not answer, in words."""
    return [f"{node.name} {answer.fault}" for node, answer in answers.items() if answer.fault]
