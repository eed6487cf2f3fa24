"""Ray's trainer with fewer processes beside the workers: each takes time to start, and idle a hundredth of a core.

No setting prevents them, so this overrides what Ray 2.60 keeps for itself: look here again when Ray's version changes.
"""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

NEVER_USED = {"DatasetsCallback"}  # of Ray's own data sets
USED_BY_OTHERS = {"PlacementGroupCleanerCallback"}  # returns what a lost controller held


class LeanTrainer(TorchTrainer):
    """Without Ray's data sets; on a cluster of its own, also without what serves others on a shared one."""

    is_alone = False  # whether the cluster ends with this driver

    def _create_default_callbacks(self) -> list[Any]:
        left_out = NEVER_USED | (USED_BY_OTHERS if self.is_alone else set())
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in left_out]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if self.is_alone and type(parts.get("scaling_policy")) is FixedScalingPolicy:
            parts["scaling_policy"] = FixedWorkers(self.scaling_config)
        return super()._initialize_and_run_controller(**parts)


class FixedWorkers(FixedScalingPolicy):
    """On a cluster that cannot grow: asks no one for more nodes."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
