"""What Ray's controller does when workers fail: writes down the first cause, and ends what a restart cannot fix."""

import contextlib
import math
import time
from dataclasses import asdict, replace
from typing import Any

from ray.train import UserCallback

from volo.cluster.attempt import Attempt, Member, append
from volo.cluster.failures import LOST, Failure, first_cause
from volo.cluster.living import is_gone

REPEATED_S = 4.0  # in which Ray asks the workers again


class TrainingEnded(Exception):
    """Raised in the controller, it ends the training without another start of the workers."""


class FailureWatch(UserCallback):
    """Runs in the controller. Writes down each failure before Ray starts the workers again, and counts them in place of
    Ray, which would charge for a node that is lost before training has begun.

    Args:
        attempt: Where the failures are written down; those of an earlier controller count too.
        max_failures: How many of them may cost something.
    """

    def __init__(self, attempt: Attempt, max_failures: int):
        self.attempt, self.max_failures = attempt, max_failures
        before = attempt.failures()
        self.last = before[-1] if before else None
        self.num_charged = sum(not failure.is_free for failure in before)
        self._num_told = attempt.num_told()
        self._noted_at = -math.inf

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises TrainingEnded for an error in the input or in training, a signal, an error that came twice, or one
        failure too many."""
        members = self.attempt.members()
        failure = first_cause(self.attempt.errors(), worker_exceptions, members, is_gone)
        if failure is None or self._is_known(failure):
            return
        failure = replace(failure, is_free=failure.is_free or self._is_nobodys_fault(failure, members))
        self._num_told, self._noted_at = self.attempt.num_told(), time.monotonic()
        self.num_charged += not failure.is_free
        failure = replace(failure, is_last=self.num_charged > self.max_failures)
        self.last = self.attempt.with_kept_log(failure).comes_after(self.last)
        with contextlib.suppress(OSError):
            append(self.attempt.failed, asdict(self.last))
        if self.last.is_final:
            raise TrainingEnded(self.last.headline())

    def _is_nobodys_fault(self, failure: Failure, members: list[Member]) -> bool:
        """Whether the worker was lost with its node before any worker reported that training began, or on a node that
        was to be taken away, which Ray may not know yet to be gone."""
        nodes = [member.node_id for member in members if member.rank == failure.rank]
        is_announced = failure.kind == LOST and bool(self.attempt.announced().intersection(nodes))
        return is_announced or (failure.is_of_node and self.attempt.num_told() == self._num_told)

    def _is_known(self, failure: Failure) -> bool:
        """While a node is being drained, Ray reports the same failure repeatedly. After a new start, one that comes
        before a worker has begun looks the same, but later."""
        last = self.last
        is_same = last is not None and (last.rank, last.pid, last.kind) == (failure.rank, failure.pid, failure.kind)
        return is_same and (failure.is_free or time.monotonic() - self._noted_at < REPEATED_S)
