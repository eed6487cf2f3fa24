"""The pairs of nodes that are tried, and what is said of those that cannot reach each other."""

import itertools

import pytest

from volo.cluster.nodes import network
from volo.cluster.nodes.asking import Node
from volo.cluster.nodes.network import Sum, check_network, rounds

NODES = [Node(f"id {number}", f"10.0.0.{number}", f"10.0.0.{number}", 4, 0, number == 1) for number in range(1, 5)]


@pytest.mark.parametrize("count", range(2, 10))
def test_every_pair_comes_once_in_rounds_in_which_each_node_is_in_one_pair(count):
    found = rounds(range(count))
    assert sorted(tuple(sorted(pair)) for pairs in found for pair in pairs) == [
        *itertools.combinations(range(count), 2)
    ]
    for pairs in found:
        members = [one for pair in pairs for one in pair]
        assert len({*members}) == len(members) >= count - 1


def said_of(monkeypatch, apart: set[frozenset[str]], nodes: list[Node] = NODES, num_workers: int = 2):
    """The finding where the sum of any group fails that holds one of these pairs."""

    def summed(members, use_gpu, limit_s):
        names = {node.name for node in members}
        return Sum("failed", "no answer") if any(pair <= names for pair in apart) else Sum("done", "all")

    monkeypatch.setattr(network, "summed", summed)
    return check_network(nodes, use_gpu=False, num_workers=num_workers)


def test_the_pair_that_cannot_reach_each_other_is_named_with_the_remedy(monkeypatch):
    found = said_of(monkeypatch, {frozenset({"10.0.0.2", "10.0.0.4"})})
    assert found.status == "failure"
    assert found.found in (
        "cannot sum over gloo: 10.0.0.2 and 10.0.0.4 (no answer)",
        "cannot sum over gloo: 10.0.0.4 and 10.0.0.2 (no answer)",
    )
    assert "firewall" in found.remedy and "GLOO_SOCKET_IFNAME" in found.remedy


def test_two_nodes_are_a_pair_without_a_search(monkeypatch):
    found = said_of(monkeypatch, {frozenset({"10.0.0.1", "10.0.0.2"})}, NODES[:2])
    assert found.found == "10.0.0.1 and 10.0.0.2 cannot sum over gloo: no answer"


def test_a_network_that_one_worker_alone_does_not_need_is_a_warning(monkeypatch):
    found = said_of(monkeypatch, {frozenset({"10.0.0.1", "10.0.0.2"})}, NODES[:2], num_workers=1)
    assert (found.status, "which one worker alone does not need" in found.found) == ("warning", True)


def test_nodes_that_only_all_together_fail_are_said_to_be_able_to_in_pairs(monkeypatch):
    found = said_of(monkeypatch, {frozenset(node.name for node in NODES)})
    assert found.found.endswith("cannot sum over gloo: no answer; each two of them can")


def test_a_node_that_holds_one_worker_has_nobody_to_reach():
    found = check_network([Node("id", "10.0.0.1", "10.0.0.1", 1, 0, True)], use_gpu=False, num_workers=1)
    assert found.status == "ok"
