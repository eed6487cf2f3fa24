"""How many trials fit into a cluster, and what can never fit."""

from dataclasses import replace

import pytest

from volo.errors import InputError
from volo.settings.run import RunSettings
from volo.tuning import resources
from volo.tuning.options import SweepOptions
from volo.tuning.resources import TrialPlan, plan

TWO_CORES = [{"CPU": 2.0}]
HEAD = [{"CPU": 4.0}]
TWO_NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}]


def planned(nodes, device="auto", can_grow=False, **options) -> TrialPlan:
    return plan(SweepOptions(space="x", **options), RunSettings(device=device), nodes, can_grow)


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        (TWO_CORES, {}, TrialPlan(2, 1, 0.0, num_local=2)),
        (TWO_CORES, dict(max_concurrent="1"), TrialPlan(1, 1, 0.0, num_local=1)),
        (TWO_CORES, dict(workers_per_trial=2), TrialPlan(1, 2, 0.0, num_local=2, by_train=True)),
        (TWO_NODES, {}, TrialPlan(3, 1, 1.0, num_local=2)),
        (TWO_NODES, dict(gpus_per_trial=0.25), TrialPlan(12, 1, 0.25, num_local=6)),
        (TWO_NODES, dict(gpus_per_trial=2.0), TrialPlan(1, 1, 2.0, num_local=1)),
        (TWO_NODES, dict(workers_per_trial=2), TrialPlan(1, 2, 2.0, num_local=1, by_train=True)),
        (TWO_NODES, dict(workers_per_trial=4), TrialPlan(3, 4, 0.0, num_local=6, by_train=True)),
        (TWO_NODES, dict(device="cpu"), TrialPlan(12, 1, 0.0, num_local=6)),
        ([{"CPU": 1.0}, {"CPU": 1.0}], dict(workers_per_trial=2), TrialPlan(1, 2, 0.0, num_local=1, by_train=True)),
    ],
)
def test_as_many_trials_at_a_time_as_fit(nodes, options, expected):
    assert planned(nodes, **options) == planned(nodes, can_grow=True, **options) == expected


@pytest.mark.parametrize(
    ("nodes", "options", "expected", "awaited"),
    [
        (
            HEAD,
            dict(device="cuda"),
            TrialPlan(1, 1, 1.0, num_local=1),
            "needed 1 core and 1 GPU for a trial, it has 4 cores and 0 GPUs on 1 node; with --max-concurrent, several "
            "run at a time",
        ),
        (
            HEAD,
            dict(device="cuda", max_concurrent="3"),
            TrialPlan(3, 1, 1.0, num_local=3),
            "needed 3 cores and 3 GPUs for 3 trials at a time, it has 4 cores and 0 GPUs on 1 node",
        ),
        (
            HEAD,
            dict(device="cuda", max_concurrent="2", workers_per_trial=2),
            TrialPlan(2, 2, 2.0, num_local=4, by_train=True),
            "needed 4 cores and 4 GPUs for 2 trials at a time, it has 4 cores and 0 GPUs on 1 node",
        ),
        (
            [{}],
            dict(max_concurrent="1"),
            TrialPlan(1, 1, 0.0, num_local=1),
            "needed 1 core for a trial, it has 0 cores and 0 GPUs on 1 node",
        ),
        (
            TWO_NODES,
            dict(max_concurrent="5", gpus_per_trial=1.0),
            TrialPlan(5, 1, 1.0, num_local=5),
            "needed 5 cores and 5 GPUs for 5 trials at a time, it has 12 cores and 3 GPUs on 2 nodes",
        ),
    ],
)
def test_a_cluster_that_may_grow_is_waited_for_if_asked_by_name(nodes, options, expected, awaited):
    assert planned(nodes, can_grow=True, **options) == replace(expected, awaited=awaited)
    with pytest.raises(InputError, match="must fit into the cluster"):
        planned(nodes, **options)


def test_what_nobody_asked_for_by_name_is_refused_on_a_cluster_that_may_grow_with_how_to_wait():
    with pytest.raises(InputError, match="or give --max-concurrent to wait for nodes that are still to come"):
        planned(HEAD, can_grow=True, workers_per_trial=5)


@pytest.mark.parametrize(
    ("node", "config", "num_sharing"),
    [
        ({"CPU": 8.0, "GPU": 1.0}, dict(num_local=3, gpus=1.0, num_workers=1), 1),
        ({"CPU": 8.0, "GPU": 1.0}, dict(num_local=3, gpus=0.5, num_workers=1), 2),
        ({"CPU": 8.0, "GPU": 4.0}, dict(num_local=3, gpus=2.0, num_workers=2), 3),
        ({"CPU": 2.0}, dict(num_local=3, gpus=0.0, num_workers=1), 2),
        ({}, dict(num_local=3, gpus=0.0, num_workers=1), 1),
    ],
)
def test_a_trial_shares_its_node_with_no_more_workers_than_fit_there(monkeypatch, node, config, num_sharing):
    nodes = [{"NodeID": "here", "Resources": node}, {"NodeID": "there", "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    monkeypatch.setattr(resources.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(resources, "this_node", lambda: "here")
    assert resources.num_sharing(config) == num_sharing


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (TWO_CORES, dict(workers_per_trial=3), "got trials of 3 cores and 0 GPUs for 2 cores and 0 GPUs on 1 node"),
        (TWO_CORES, dict(gpus_per_trial=0.5), "a trial must fit into the cluster, got trials of 1 cores and 0.5 GPUs"),
        (TWO_CORES, dict(device="cuda"), "a trial must fit into the cluster"),
        (TWO_NODES, dict(gpus_per_trial=3.0), "for 12 cores and 3 GPUs on 2 nodes"),
        (TWO_CORES, dict(max_concurrent="5"), "use --max-concurrent 2 or auto"),
        (TWO_CORES, dict(device="cpu", gpus_per_trial=1.0), "has no effect with --device cpu"),
    ],
)
def test_what_can_never_be_scheduled_is_refused_with_what_there_is(nodes, options, message):
    with pytest.raises(InputError, match=message):
        planned(nodes, **options)
