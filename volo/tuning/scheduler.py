"""Ray Tune's scheduler, which follows the study's decisions after each epoch."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from volo.cluster.failures import told_of_loss
from volo.cluster.living import living_nodes
from volo.errors import TrainingError
from volo.runs.listing import read_failure
from volo.tuning.study import Trials
from volo.tuning.trial import DISK, FAILURE, STOPPED

MOST_LOST = 3  # times that a trial may lose its node in one start of a sweep


class StudyScheduler(FIFOScheduler):
    """Reports every epoch and failure to the study, and stops the trials that have ended according to it.

    Args:
        study: The study of the trials.
        on_epoch: Called after each epoch with the trial's number and its metrics.
        on_failing_disk: Ends the sweep if a file cannot be written in it (volo/tuning/ending.py).
        say: Shows a line.
    """

    def __init__(
        self,
        study: Trials,
        on_epoch: Callable[[int, dict[str, Any]], None],
        on_failing_disk: Callable[[str], AbstractContextManager[None]],
        say: Callable[[str], None],
    ):
        super().__init__()
        self.study, self.on_epoch, self.on_failing_disk, self.say = study, on_epoch, on_failing_disk, say
        self._times_lost: Counter[int] = Counter()
        self._nodes: dict[str, set[str]] = {}  # that there were when a trial was added

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        self._nodes[trial.trial_id] = living_nodes()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        if FAILURE in result:
            self.study.fail(number, result[FAILURE])
        if DISK in result:
            with self.on_failing_disk(""):
                raise TrainingError(result[DISK])
        if {FAILURE, STOPPED, DISK} & result.keys():
            return TrialScheduler.STOP
        self.on_epoch(number, result)
        if result["epoch"] >= self.study.num_epochs:  # its function returns by itself once everything is saved
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if self.study.report(number, result) else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial's process was lost, for example after a hang, which it records first; it catches other errors. One
        that went with its node is tried again."""
        number, error = trial.config["number"], trial.get_pickled_error()
        is_with_node = is_node_lost(error, self._nodes.pop(trial.trial_id, set()) - living_nodes())
        if is_with_node and self._times_lost[number] < MOST_LOST:
            self._times_lost[number] += 1
            self.study.give_back(number)
            times = f"{self._times_lost[number]} of {MOST_LOST} times"
            self.say(f"trial {number} was lost with its node; starting again from its newest checkpoint, {times}")
            return
        self.study.bring_records(number)
        note = read_failure(self.study.run_dir(number))
        self.study.fail(number, note or _reason(error, is_with_node, trial))

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles this object into a file that is never read."""
        return {}


def is_node_lost(error: Exception | None, gone: Collection[str]) -> bool:
    """Whether a trial's process went with its node, announced or not, which says nothing about the trial.

    Args:
        error: Ray's, if it is known. Before Ray misses the node, it only tells that the process does not answer.
        gone: Nodes that there were when the trial began, and that are no longer there.
    """
    told = None if error is None else told_of_loss(error)
    return bool(gone) or (told is not None and told.is_of_node)


def _reason(error: Exception | None, is_with_node: bool, trial: Trial) -> str:
    text = _text_of(error, trial)
    if isinstance(error, OutOfMemoryError):
        return f"out of memory: {text}"
    if is_with_node:
        return f"the trial's process was lost with its node: {text}"
    if error is None or isinstance(error, RayActorError):
        return f"the trial's process was lost, killed or out of memory: {text}"
    return f"{type(error).__name__}: {text}"


def _text_of(error: Exception | None, trial: Trial) -> str:
    """What Ray says in one line. Tune writes it on this machine before it can be asked for the error itself."""
    text = str(error)
    if error is None:
        with contextlib.suppress(OSError, TypeError):
            text = Path(trial.error_file).read_text(errors="replace").partition("\n")[2]
    return " ".join(text.split())
