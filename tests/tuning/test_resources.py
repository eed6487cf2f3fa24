"""How many trials fit into a cluster, and what can never fit."""

import pytest

from volo.errors import InputError
from volo.settings.run import RunSettings
from volo.tuning.options import SweepOptions
from volo.tuning.resources import TrialPlan, plan

TWO_CORES = [{"CPU": 2.0}]
TWO_NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}]


def planned(nodes, device="auto", **options) -> TrialPlan:
    return plan(SweepOptions(space="x", **options), RunSettings(device=device), nodes)


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
    assert planned(nodes, **options) == expected


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
