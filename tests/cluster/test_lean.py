"""What Ray's own classes do besides what is overridden here is still done, or is nothing where it is left out."""

import asyncio

from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, NoopDecision, ResizeDecision

from volo.cluster.lean import FixedWorkers

CONFIG = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1})


def test_a_fixed_number_of_workers_decides_as_rays_policy_and_ends_without_having_asked_anyone():
    """Without a cluster: whoever is asked for nodes would fail."""
    policy = FixedWorkers(CONFIG)
    policy.after_controller_start(None)
    assert policy.make_decision_for_non_running_worker_group() == ResizeDecision(2, {"CPU": 1})
    assert isinstance(policy.make_decision_for_running_worker_group(None, None), NoopDecision)
    asyncio.run(policy.before_controller_shutdown())
    policy.before_controller_abort()


def test_rays_policy_has_no_duty_that_was_not_looked_at():
    """Of these, what asks for nodes is overridden, and what takes the request back does nothing without one."""
    callbacks = {name for kind in FixedScalingPolicy.__mro__[:2] for name in vars(kind) if "controller" in name}
    assert callbacks == {"after_controller_start", "before_controller_shutdown", "before_controller_abort"}
