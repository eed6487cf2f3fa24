"""What Ray's controller does when workers fail: writes down the first cause, and ends what a restart cannot fix."""

import contextlib
from dataclasses import asdict
from typing import Any

from ray.train import UserCallback

from volo.cluster.attempt import Attempt, append
from volo.cluster.failures import Failure, first_cause


class TrainingEnded(Exception):
    """Raised in the controller, it ends the training without another start of the workers."""


class FailureWatch(UserCallback):
    """Runs in the controller. Writes down each failure before Ray decides whether to start the workers again."""

    def __init__(self, attempt: Attempt):
        self.attempt = attempt
        self.last: Failure | None = None

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises TrainingEnded for an error in the input or in training, a signal, or an error that came twice."""
        failure = first_cause(self.attempt.errors(), worker_exceptions, self.attempt.members())
        if failure is None or self._is_known(failure):
            return
        self.last = self.attempt.with_kept_log(failure).comes_after(self.last)
        with contextlib.suppress(OSError):
            append(self.attempt.failed, asdict(self.last))
        if self.last.is_final:
            raise TrainingEnded(self.last.headline())

    def _is_known(self, failure: Failure) -> bool:
        """While a node is being drained, Ray reports the same failure repeatedly."""
        last = self.last
        return last is not None and (last.rank, last.pid, last.kind) == (failure.rank, failure.pid, failure.kind)
