"""The options of a sweep, apart from the settings of its trials, and their checks. No torch, no Ray."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from volo.errors import InputError, brief
from volo.settings.config import Settings

MEASURED = ("val/acc1", "val/acc5", "val/loss", "train/loss", "images_per_s")
COUNTED = ("params", "flops")
GRACE_SHARE, REDUCTION_FACTOR = 0.15, 3  # from a replay over full learning curves: EXPERIMENTS.md, 2026-11-27
NUM_CONFIRM_SEEDS = 3


@dataclass(frozen=True)
class SweepObjective:
    """An epoch's metric or a model's count, and whether more (max) or less (min) of it is better."""

    metric: str
    mode: str

    @classmethod
    def parse(cls, text: str) -> "SweepObjective":
        """Parses METRIC:max or METRIC:min. Raises InputError for anything else, or a metric that no trial reports."""
        metric, _, mode = text.rpartition(":")
        if mode not in ("max", "min"):
            raise InputError(f"an objective must be METRIC:max or METRIC:min, got {brief(text)}; try val/acc1:max")
        if metric not in MEASURED + COUNTED:
            raise InputError(
                f"an objective must be one that a trial reports, got {brief(metric)}; use {', '.join(MEASURED)}, of "
                f"every epoch, or {' or '.join(COUNTED)}, of the model"
            )
        return cls(metric, mode)

    def __str__(self) -> str:
        return f"{self.metric}:{self.mode}"


@dataclass(frozen=True)
class SweepOptions:
    """How to search, and with which resources."""

    space: str
    """What to search: pooling, hierarchy, downsampling, mix, architecture, optimizer (`volo spaces` describes them), or
    your own file by a path that ends in .py."""
    num_samples: int = 20
    """Total number of trials. A larger number extends a finished sweep."""
    sweep_name: Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")] = None
    """Name of the sweep's folder. Default: tune-<space>."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe learns from earlier trials (multivariate, grouped); grid tries every point of a discrete space once."""
    pruner: Annotated[
        Literal["asha", "hyperband", "median", "none"] | None,
        tyro.conf.arg(metavar="{asha,hyperband,median,none}", help_behavior_hint=""),
    ] = None
    """How trials are stopped early. Default: asha; none with several objectives."""
    grace_period: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Epochs before a trial may be stopped early. Default: a seventh of all epochs."""
    reduction_factor: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """asha, hyperband: one in this many trials advances to the next stage, which is this many times as long.
    Default: 3."""
    objectives: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METRIC:MODE", help_behavior_hint="")] = ()
    """What to compare, such as val/acc1:max params:min flops:min. Default: the space's own objective."""
    max_concurrent: Annotated[str, tyro.conf.arg(metavar="{auto,INT}")] = "auto"
    """Trials to run at the same time; auto: as many as fit."""
    workers_per_trial: int = 1
    """Workers that train a trial together."""
    gpus_per_trial: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """GPUs per trial; with one worker also a fraction, such as 0.25. Default: one per worker, if there are any."""
    budget_minutes: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Stop after this many minutes and save running trials; the same command continues."""
    keep_checkpoints: int = 3
    """Keep the weights of this many of the best trials, and of running ones."""
    confirm_top: int = 0
    """After the sweep, train this many of the best trials, and the base, again on other seeds; 0: none."""
    confirm_seeds: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Seeds for each of these. Default: 3, the fewest that can show a difference."""

    def check(self) -> None:
        """Raises InputError for values that are out of range or contradict each other."""
        for name in ("num_samples", "workers_per_trial", "keep_checkpoints"):
            _at_least(1, name, getattr(self, name))
        _at_least(1, "grace_period", self.grace_period)
        _at_least(2, "reduction_factor", self.reduction_factor)
        for name in ("budget_minutes", "gpus_per_trial"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InputError(f"{_flag(name)} must be more than 0, got {value}")
        if self.max_concurrent != "auto" and not (self.max_concurrent.isdecimal() and int(self.max_concurrent)):
            raise InputError(f"--max-concurrent must be auto or at least 1, got {self.max_concurrent}")
        gpus, workers = self.gpus_per_trial or 0.0, self.workers_per_trial
        if gpus and gpus != int(gpus) and (gpus > 1 or workers > 1):
            raise InputError(
                f"a fraction of a GPU must be less than 1 and for a single worker, got --gpus-per-trial {gpus}, "
                f"--workers-per-trial {workers}; use whole GPUs or one worker"
            )
        if gpus and workers > 1 and gpus != workers:
            raise InputError(
                f"several workers must have one GPU each, got --gpus-per-trial {gpus}, --workers-per-trial {workers}; "
                "omit --gpus-per-trial"
            )
        _at_least(0, "confirm_top", self.confirm_top)
        _at_least(1, "confirm_seeds", self.confirm_seeds)
        if self.confirm_seeds and not self.confirm_top:
            raise InputError("--confirm-seeds has no effect without --confirm-top; use both, or omit it")
        self._check_pruner()

    def _check_pruner(self) -> None:
        if len(self.objectives) > 1 and self.pruner not in (None, "none"):
            raise InputError(
                f"trials can be stopped early only with a single objective, got --pruner {self.pruner} and "
                f"{len(self.objectives)} objectives; use --pruner none, or one objective"
            )
        if self.chosen_pruner == "none" and (self.grace_period or self.reduction_factor):
            raise InputError("--grace-period and --reduction-factor have no effect with --pruner none; omit them")
        if self.chosen_pruner == "median" and self.reduction_factor:
            raise InputError("--reduction-factor has no effect with --pruner median; omit it")

    def objectives_of(self, default: SweepObjective) -> tuple[SweepObjective, ...]:
        """The requested objectives, or the space's own. Raises InputError for some that cannot be compared."""
        objectives = tuple(SweepObjective.parse(text) for text in self.objectives) or (default,)
        names = [objective.metric for objective in objectives]
        if len({*names}) < len(names):
            raise InputError(f"objectives must differ, got {', '.join(names)}")
        if not {*names} & {*MEASURED}:
            raise InputError(f"one objective must be measured in training, got {', '.join(names)}; add val/acc1:max")
        return objectives

    @property
    def chosen_pruner(self) -> str:
        return self.pruner or ("none" if len(self.objectives) > 1 else "asha")

    def grace_of(self, num_epochs: int) -> int:
        """Epochs before a trial of `num_epochs` may be stopped early."""
        return self.grace_period or max(1, round(GRACE_SHARE * num_epochs))

    def folder_name(self, space_name: str) -> str:
        return self.sweep_name or f"tune-{space_name}"


def check_base(settings: Settings, objectives: tuple[SweepObjective, ...], options: SweepOptions) -> None:
    """Raises InputError for settings that no trial of a sweep can have."""
    if settings.optim.max_steps is not None:
        raise InputError(f"a trial trains whole epochs, got --max-steps {settings.optim.max_steps}; use --epochs")
    if settings.optim.patience is not None:
        raise InputError(
            f"a sweep's pruner decides which trials end early, got --patience {settings.optim.patience}; use --pruner"
        )
    if settings.run.resume_path or settings.run.seeds:
        raise InputError("a sweep accepts neither --resume-path nor --seeds; omit them")
    validated = [objective.metric for objective in objectives if objective.metric.startswith("val/")]
    if validated and settings.data.val_fraction == 0:
        raise InputError(f"{validated[0]} needs validation images, got --val-fraction 0; raise it")
    if options.confirm_top and objectives[0].metric in COUNTED:
        raise InputError(
            f"--confirm-top compares the first objective over seeds, got {objectives[0]}, which is the same for all; "
            "put one that is measured in training first, or omit --confirm-top"
        )
    if options.grace_period and options.grace_period >= settings.optim.epochs:
        raise InputError(
            "--grace-period must be less than --epochs, or no trial is ever stopped early, got "
            f"--grace-period {options.grace_period}, --epochs {settings.optim.epochs}; lower it, or use --pruner none"
        )
    if settings.optim.batch_size < options.workers_per_trial:
        raise InputError(
            f"--batch-size must give each worker a sample, got --batch-size {settings.optim.batch_size}, "
            f"--workers-per-trial {options.workers_per_trial}; raise the one or lower the other"
        )


def _at_least(least: int, name: str, value: int | None) -> None:
    if value is not None and value < least:
        raise InputError(f"{_flag(name)} must be at least {least}, got {value}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
