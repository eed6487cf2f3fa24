"""The same training with several seeds: one run per seed, one after the other, and a summary of their scores.

<run>/seed0/ <run>/seed1/ ...    ordinary run folders
<run>/seeds.json                 scores of each run, mean, and spread; rewritten after every seed
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from volo.console import percent, print_table
from volo.errors import InputError
from volo.files import replace_synced
from volo.runs.checkpoint import writing
from volo.runs.disk_room import check_disk_room
from volo.runs.folder import Start, check_run, is_restart, lock_of, set_aside
from volo.runs.listing import CONFIG, METRIC, Scores, read_scores
from volo.runs.places import SEEDS, check_is_ours, is_empty
from volo.settings.config import Settings
from volo.training.initial import check_inputs
from volo.training.stored_seeds import check_seeds, keep_summary, set_seeds_aside
from volo.training.world import World

KINDS = {"best": "best val top-1", "last": "last val top-1", "train_loss": "train loss"}
# The 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom; beyond the table, an expansion is used.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def each_run(settings: Settings, world: World) -> Iterator[Settings]:
    """Yields the settings of every run to train: those given, or one for each of `run.seeds`.

    Rewrites the summary of the seeds whenever the caller asks for the next run. Finished runs are yielded as well.

    Args:
        settings: Equal on every worker, all of which iterate.
        world: The workers that train, or the driver that starts them.

    Raises:
        InputError: an existing run cannot be resumed with these settings; raised before any run is trained.
    """
    if settings.run.seeds is None:
        yield settings
        return
    runs = [of_seed(settings, seed) for seed in settings.run.seeds]
    _prepare_everywhere(settings, runs, world)
    for number, one in enumerate(runs, start=1):
        if world.is_main:
            print(f"seed {one.run.seed}, {number} of {len(runs)}", flush=True)
        yield one
        if world.is_main:
            summary = summarize({run.run.seed: read_scores(run.run_dir) for run in runs[:number]})
            _keep(settings, json.dumps(summary, indent=1) + "\n")
    if world.is_main:
        _show(summary)
        print(f"run folder: {settings.home}", flush=True)


def _keep(settings: Settings, summary: str) -> None:
    with writing(str(settings.run_dir / SEEDS)):
        replace_synced(settings.run_dir / SEEDS, summary)
    if settings.is_in_bucket:
        keep_summary(settings, summary)


def of_seed(settings: Settings, seed: int) -> Settings:
    """The settings of one seed's run, whose folder is inside that of `settings`."""
    name = f"{settings.resolved().run.run_name}/seed{seed}"
    run = settings.run.model_copy(update=dict(seed=seed, seeds=None, run_name=name, fresh=False))
    return settings.model_copy(update=dict(run=run))


def summarize(scores: dict[int, Scores]) -> dict[str, Any]:
    """Scores of each seed, and their mean, sample standard deviation, 95% interval, minimum, and maximum.

    `best` is the score of each run's best epoch and `last` of its last, both on validation images. `interval` is the
    95% confidence interval of the mean (Student's t). Standard deviation and interval of one seed are None.
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
        **{kind: _spread([getattr(one, kind) for one in scores.values()]) for kind in KINDS},
    }  # fmt: skip


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """None if a run has no such value, because a mean over the others would look like a mean over all."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    mean, std = statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None
    return {"mean": mean, "std": std, "interval": _interval(known), "min": min(known), "max": max(known)}


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    mean, reach = statistics.fmean(values), t_quantile(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean - reach, mean + reach


def t_quantile(freedom: int) -> float:
    """The value that Student's t with `freedom` degrees of freedom exceeds with probability 0.025."""
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _prepare_everywhere(settings: Settings, runs: list[Settings], world: World) -> None:
    refusal = None
    if world.is_main:
        print(f"run folder: {settings.home}", flush=True)
        try:
            _prepare(settings, runs)
        except InputError as error:
            refusal = str(error)
    if refusal := world.from_main(refusal):
        raise InputError(refusal)


def _prepare(settings: Settings, runs: list[Settings]) -> None:
    if settings.is_in_bucket:
        _prepare_stored(settings, runs)
        return
    folder = settings.run_dir
    if settings.run.fresh and not is_restart():
        _set_aside(settings, runs[0])
    if (folder / CONFIG).exists():
        raise InputError(
            f"seeds must be trained in their own folder, got {folder}, which is a run itself; choose another "
            "--run-name, or --fresh to rename it"
        )
    for one in runs:
        check_run(one)


def _prepare_stored(settings: Settings, runs: list[Settings]) -> None:
    if settings.run.fresh and not is_restart():
        check_inputs(runs[0].resolved(), Start(None, 0, 0))
        set_seeds_aside(settings, runs)
    check_seeds(settings, runs)
    settings.run_dir.mkdir(parents=True, exist_ok=True)


def _set_aside(settings: Settings, first: Settings) -> None:
    """Renames earlier runs of this name once everything that the first run needs has been checked."""
    folder = settings.run_dir
    check_is_ours(folder, "--run-name")
    if is_empty(folder):
        return
    check_disk_room(first, is_fresh=True)
    check_inputs(first.resolved(), Start(None, 0, 0))
    lock = lock_of(folder)
    try:
        set_aside(folder)
    finally:
        lock.release()


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
    if said := [f"{KINDS[kind]} {_range(kind, summary[kind])}" for kind in KINDS if _has_interval(summary[kind])]:
        print(f"95% intervals of the means over {len(summary['seeds'])} seeds: {', '.join(said)}")


def _has_interval(spread: dict[str, Any] | None) -> bool:
    return spread is not None and spread["interval"] is not None


def _range(kind: str, spread: dict[str, Any]) -> str:
    shown = _loss if kind == "train_loss" else _percent
    return " to ".join(shown(end) for end in spread["interval"])


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value, 2)


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plain(value: int | None) -> str:
    return "-" if value is None else str(value)
