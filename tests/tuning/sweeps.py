"""Sweeps without Ray and without training: a study, and trials with simulated epochs."""

from pathlib import Path

import torch

from volo.runs import checkpoint
from volo.runs.model_file import Description
from volo.runs.records import FILE, read_records
from volo.settings.config import Settings, build_settings, merge
from volo.tuning.home import SweepHome
from volo.tuning.options import SweepOptions
from volo.tuning.recovery import recover
from volo.tuning.search.spaces import Space
from volo.tuning.study import SweepStudy, Work

STEPS = 10  # of an epoch


def draw(trial) -> dict:
    """A space with continuous, discrete and conditional parameters."""
    mixing = trial.suggest_categorical("mixing", ["none", "mixup"])
    augment = {"label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.5)}
    if mixing == "mixup":
        augment["mixup_alpha"] = trial.suggest_float("mixup_alpha", 0.1, 1.0, log=True)
    return {"augment": augment, "optim": {"batch_size": trial.suggest_int("batch_size", 16, 64, step=16)}}


POINT = {"mixing": "mixup", "mixup_alpha": 0.5, "label_smoothing": 0.1, "batch_size": 32}
SPACE = Space("played", None, "val/acc1", "max", (POINT,), draw, "source")


def base(epochs: int = 4, **overrides) -> Settings:
    values = {"model": {"variant": "quickstart"}, "data": {"dataset": "shapes"}, "optim": {"epochs": epochs}}
    return build_settings(merge(values, overrides))


def opened(
    sweep_dir: Path, *, space: Space = SPACE, settings: Settings | None = None, home: SweepHome | None = None, **options
) -> SweepStudy:
    sweep_dir.mkdir(parents=True, exist_ok=True)
    options = {"num_samples": 6, **options}
    chosen = SweepOptions(space=space.name, **options)
    chosen.check()
    return SweepStudy(sweep_dir, space, settings or base(), chosen, home)


def accuracy(settings: Settings, epoch: int) -> float:
    """Best at a smoothing of 0.2, better the longer."""
    return 0.8 - abs(settings.augment.label_smoothing - 0.2) - 0.3 / epoch


def play_epoch(study: SweepStudy, work: Work) -> dict:
    """Writes what one more epoch of training writes to the trial's run folder, and returns its metrics."""
    run_dir = study.run_dir(work.number)
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    epoch = 1 + len(epochs_run(study, work.number))
    metrics = {"epoch": epoch, "step": epoch * STEPS, "train/loss": 1.0, "val/acc1": accuracy(work.settings, epoch)}
    metrics["images_per_s"] = 80.0
    with open(run_dir / FILE, "a") as file:
        file.write(str({"kind": "epoch", **metrics}).replace("'", '"') + "\n")
    description = Description(work.settings.resolved(), ("a", "b"), "hash", step=epoch * STEPS, epoch=epoch)
    total_steps = work.settings.optim.epochs * STEPS
    checkpoint.save(run_dir, {"weight": torch.zeros(1)}, description, {}, total_steps)
    return metrics


def epochs_run(study: SweepStudy, number: int) -> list[int]:
    return [record["epoch"] for record in read_records(study.run_dir(number))]


def play(study: SweepStudy, most: int = 10**6, hears_last: bool = True) -> SweepStudy:
    """Runs the sweep one trial after the other, to its end or until `most` epochs more have been trained, the last of
    which the study hears of or not."""
    recover(study)
    while most > 0 and (work := study.next_work()):
        has_ended = False
        while most > 0 and not has_ended:
            metrics = play_epoch(study, work)
            most -= 1
            has_ended = (most > 0 or hears_last) and study.report(work.number, metrics)
    return study


def drawn(study: SweepStudy) -> list[dict]:
    return [trial.params for trial in study.trials]


def states(study: SweepStudy) -> list[str]:
    return [trial.state.name for trial in study.trials]
