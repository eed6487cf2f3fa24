"""The same training with several seeds: runs of their own, one after the other, and what they have in common.

    <run>/seed0/ <run>/seed1/ ...    run folders like any other
    <run>/seeds.json                 scores of each, mean and spread; written anew after every seed
"""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from volo.config import Settings
from volo.console import print_table
from volo.errors import InputError
from volo.runs import CONFIG, METRIC, Scores, read_scores
from volo.training.run import check_run, set_aside, write_file
from volo.training.world import World, is_restart

SUMMARY = "seeds.json"


def train_each(settings: Settings, world: World, train_one: Callable[[Settings], None]) -> None:
    """Trains what the settings say: one run, or one for each of `run.seeds`. Finished ones are passed over.

    Args:
        settings: Every worker calls this with equal ones.
        world: Who trains, or the driver of those who do.
        train_one: Trains a run to its end, from where it is; what it raises ends the whole.

    Raises:
        InputError: a run that is there and cannot be gone on with; before any is trained.
    """
    if settings.run.seeds is None:
        train_one(settings)
        return
    runs = [of_seed(settings, seed) for seed in settings.run.seeds]
    _prepare_everywhere(settings, runs, world)
    for number, one in enumerate(runs, start=1):
        if world.is_main:
            print(f"seed {one.run.seed}, {number} of {len(runs)}", flush=True)
        train_one(one)
        if world.is_main:
            summary = summarise({run.run.seed: read_scores(run.run_dir) for run in runs[:number]})
            write_file(settings.run_dir / SUMMARY, json.dumps(summary, indent=1) + "\n")
    if world.is_main:
        _show(summary)
        print(f"run folder: {settings.run_dir}", flush=True)


def of_seed(settings: Settings, seed: int) -> Settings:
    """The settings of one seed's run, below the folder that `settings` name."""
    name = f"{settings.resolved().run.run_name}/seed{seed}"
    run = settings.run.model_copy(update=dict(seed=seed, seeds=None, run_name=name, fresh=False))
    return settings.model_copy(update=dict(run=run))


def summarise(scores: dict[int, Scores]) -> dict[str, Any]:
    """Scores of each seed, and mean, standard deviation (of a sample; None of one seed), least and most over them.

    `best` is that of each run's best epoch, `last` that of its last; both on validation images.
    """
    return {
        "metric": METRIC,
        "seeds": {
            str(seed): dict(
                run=f"seed{seed}", epochs=one.num_epochs, best=one.best, best_epoch=one.best_epoch, last=one.last,
                train_loss=one.train_loss,
            )
            for seed, one in scores.items()
        },
        **{kind: _spread([getattr(one, kind) for one in scores.values()]) for kind in ("best", "last", "train_loss")},
    }  # fmt: skip


def _spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """None where a run has no such value: a mean over the others would pass for one over all."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    std = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": std, "min": min(known), "max": max(known)}


def _prepare_everywhere(settings: Settings, runs: list[Settings], world: World) -> None:
    refusal = None
    if world.is_main:
        print(f"run folder: {settings.run_dir}", flush=True)
        try:
            _prepare(settings, runs)
        except InputError as error:
            refusal = str(error)
    if refusal := world.from_main(refusal):
        raise InputError(refusal)


def _prepare(settings: Settings, runs: list[Settings]) -> None:
    folder = settings.run_dir
    if settings.run.fresh and not is_restart():
        set_aside(folder)
    if (folder / CONFIG).exists():
        raise InputError(
            f"seeds must be trained into a folder of their own, got {folder}, which is a run itself; choose another "
            "--run-name, or --fresh to rename it"
        )
    for one in runs:
        check_run(one)


def _show(summary: dict[str, Any]) -> None:
    columns = ("seed", "epochs", "best val top-1", "at epoch", "last val top-1", "train loss")
    rows = [
        (
            seed, str(one["epochs"]), _percent(one["best"]), _plain(one["best_epoch"]), _percent(one["last"]),
            _loss(one["train_loss"]),
        )
        for seed, one in summary["seeds"].items()
    ]  # fmt: skip
    for kind in ("mean", "std", "min", "max"):
        best, last, loss = ((summary[name] or {}).get(kind) for name in ("best", "last", "train_loss"))
        rows.append((kind, "", _percent(best), "", _percent(last), _loss(loss)))
    print_table(columns, rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plain(value: int | None) -> str:
    return "-" if value is None else str(value)
