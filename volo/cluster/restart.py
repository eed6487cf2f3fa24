"""Starts Ray's trainer again when Ray gives up because a node was lost while the workers started.

Ray itself starts the workers again if one is lost while they are set up, and while they train, but not if that happens
in between, when it tells them to train. What they had reserved then stays reserved for as long as the driver runs.
"""

from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.train import ControllerError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from volo.cluster.living import living_nodes
from volo.log import LOGGER


class Fits(Protocol):
    """A trainer of Ray."""

    def fit(self) -> Any: ...


def fit_despite_losses(new_trainer: Callable[[], Fits]) -> None:
    """Has a new trainer fit, and another one each time that Ray's controller gives up for a node lost in the meantime.

    Raises:
        TrainingFailedError: what Ray raised for any other reason, or if nobody tells what to give back.
    """
    while True:
        nodes = living_nodes()
        try:
            new_trainer().fit()
            return
        except ControllerError as error:
            is_lost = isinstance(error.controller_failure, RayError) and nodes - living_nodes()
            if not (is_lost and _gave_back()):
                raise
            LOGGER.warning("a node was lost while the workers started: starting them again")


def _gave_back() -> bool:
    """Gives back what workers of this driver have reserved. False if Ray's dashboard, which knows, does not answer."""
    from ray.util.state import list_placement_groups
    from ray.util.state.exception import RayStateApiException

    here = ray.get_runtime_context()
    ours: list[Any] = [("creator_job_id", "=", here.get_job_id()), ("state", "!=", "REMOVED")]
    try:
        groups = list_placement_groups(here.gcs_address, filters=ours, raise_on_missing_output=False)
    except (RayStateApiException, ConnectionError, RuntimeError, ValueError):
        return False
    for group in groups:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group.placement_group_id))))
    return True
