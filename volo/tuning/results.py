"""The results of a sweep: a ranked table of its trials, the best settings, the weights of the best few, a report."""

import logging
import math
import shlex
import time
from itertools import islice
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from volo.console import percent
from volo.errors import TrainingError
from volo.files import replace_synced
from volo.runs.checkpoint import writing
from volo.runs.places import TABLE
from volo.settings.config import Settings
from volo.tuning.report import SweepFacts, write_sweep_report
from volo.tuning.study import BASE, DRAWN, SweepStudy
from volo.tuning.table import Table

logger = logging.getLogger("volo")
BEST_CONFIG = "best_config.yaml"
AT_MOST_EVERY_S = 1.0


class SweepResults:
    """Writes trials.csv and best_config.yaml, and removes weights that need not be kept.

    Every `write` leaves them as the study is. After the first, it looks only at trials that have changed or lost their
    place since, however many others there are; of those, only the table's bytes are written again.

    Attributes:
        is_behind: Whether trials have ended since the last `write`. Set it, and call `catch_up` again and again.
    """

    def __init__(self, study: SweepStudy):
        self.study = study
        self.is_behind = False
        self._written_at = -math.inf
        self._table = Table(study)
        self._best: int | None = None  # whose settings have been written
        self._without_weights: set[int] = set()

    def catch_up(self) -> bool:
        """Writes if they are behind, at most once a second. Returns whether it did. Raises as `write` does."""
        is_due = self.is_behind and time.monotonic() - self._written_at >= AT_MOST_EVERY_S
        if is_due:
            self.write()
        return is_due

    def write(self) -> None:
        """Raises TrainingError if the disk refused a file; an earlier one is intact."""
        self.is_behind, self._written_at = False, time.monotonic()
        with writing("the results of the sweep"):
            replace_synced(self.study.sweep_dir / TABLE, self._table.text())
            self._write_best()
        self._remove_weights()

    def _write_best(self) -> None:
        best = best_trial(self.study)
        if best is None or best.number == self._best:
            return
        settings = self.study.settings_of(best.number, best.user_attrs[DRAWN])
        head = f"# Trial {best.number} of {self.study.sweep_dir.name}: {values_of(self.study, best)}\n"
        text = yaml.safe_dump(effective(settings), sort_keys=False)
        replace_synced(self.study.sweep_dir / BEST_CONFIG, head + text)
        self._best = best.number

    def _remove_weights(self) -> None:
        """Of all trials that have ended, except the best `keep_checkpoints`."""
        known = self.study.standings
        ended = (trial.number for trial in known.ranked() if trial.state.is_finished())
        kept = islice(ended, self.study.options.keep_checkpoints)
        for number in sorted(known.ended.difference(self._without_weights, kept)):
            if not self.study.home.remove_weights(self.study.run_dir(number)):
                self._without_weights.add(number)


def write_results(study: SweepStudy) -> None:
    """Writes all results of a sweep. Raises TrainingError if the disk refused a file; an earlier one is intact."""
    SweepResults(study).write()


def write_report(study: SweepStudy) -> None:
    """Draws sweep_report.html and prints its path. An error in drawing is logged and does no other harm: everything in
    the report is also in the table and the journal.

    Raises:
        TrainingError: the disk refused it; an earlier report is intact.
    """
    base = study.base
    _bring_curves(study)
    facts = SweepFacts(
        name=study.sweep_dir.name,
        space=study.space.name,
        recipe=f"{base.recipe or base.model.variant} on {base.data.dataset}",
        metrics=[objective.metric for objective in study.objectives],
        num_epochs=study.num_epochs,
        run_dir=study.run_dir,
        confirm_flags="--confirm-top 1",
    )
    try:
        with writing("the report of the sweep"):
            print(f"report: {write_sweep_report(study.study, study.sweep_dir, facts)}", flush=True)
    except TrainingError:
        raise
    except Exception:
        logger.exception("the report could not be drawn; all other results of the sweep are complete")


def _bring_curves(study: SweepStudy) -> None:
    """The records of trials that a driver elsewhere has run, of which the study has received the last epoch alone."""
    for trial in study.trials:
        if trial.state.is_finished() and not trial.intermediate_values and not study.run_dir(trial.number).exists():
            study.bring_records(trial.number)


def ranked(study: SweepStudy) -> list[FrozenTrial]:
    """Trials, best first (`Standings.ranked`)."""
    return list(study.standings.ranked())


def best_trial(study: SweepStudy) -> FrozenTrial | None:
    """The best of the trials that were trained to the end."""
    ranking = study.standings.ranked()
    trained = (trial for trial in ranking if trial.state == TrialState.COMPLETE and DRAWN in trial.user_attrs)
    return next(trained, None)


def values_of(study: SweepStudy, trial: FrozenTrial) -> str:
    """Such as `val/acc1 61.20%, params 463,000`; for a trial that was stopped early, its last values."""
    pairs = zip(study.objectives, trial.values or [None] * len(study.objectives), strict=True)
    return ", ".join(f"{one.metric} {shown(one.metric, value)}" for one, value in pairs)


def against_base(study: SweepStudy, best: FrozenTrial) -> str:
    """What the base reached and, if that was after fewer epochs, what the best trial had at that point."""
    base = study.frozen(BASE)
    if best.number == BASE:
        return "this is the base itself, which no other trial trained to the end beats"
    if base.state == TrialState.COMPLETE:
        return f"the base, trial {BASE}: {values_of(study, base)}"
    became = {TrialState.FAIL: "failed", TrialState.PRUNED: "was stopped early"}.get(base.state, "has not ended yet")
    if not base.intermediate_values:
        return f"the base, trial {BASE}, {became}"
    metric, epoch = study.objectives[0].metric, max(base.intermediate_values)
    then = [shown(metric, trial.intermediate_values.get(epoch)) for trial in (base, best)]
    return (
        f"the base, trial {BASE}, {became}: after {epoch} epoch{'s' * (epoch > 1)} it had {then[0]}, "
        f"trial {best.number} {then[1]}"
    )


def train_command(study: SweepStudy) -> str:
    """The shell command that trains the best settings."""
    return f"volo train --config {shlex.quote(str(study.sweep_dir / BEST_CONFIG))} --run-name NAME"


def shown(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    if "acc" in metric:
        return percent(value, 2)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def effective(settings: Settings) -> dict[str, Any]:
    """The settings that differ from the defaults, for a file that trains the same: always the form, variant and data
    set, and never the run's location or its workers."""
    values = {
        name: getattr(settings, name).model_dump(mode="json", exclude_defaults=True)
        for name in ("model", "data", "augment", "optim", "teaching")
    }
    values["model"] = {"form": settings.model.form, "variant": settings.model.variant} | values["model"]
    values["data"] = {"dataset": settings.data.dataset} | values["data"]
    if settings.data.data_dir is not None:
        values["data"]["data_dir"] = settings.located().data.data_dir
    if settings.run.seed:
        values["run"] = {"seed": settings.run.seed}
    return {name: section for name, section in values.items() if section}
