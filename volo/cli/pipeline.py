"""Train, then analyze the result, on one Ray cluster. With --space, search for the settings first.

    volo pipeline --recipe quickstart
    volo pipeline --space mix --dataset cifar100 --num-samples 50 --epochs 20 --sweep-name first

The first takes the flags of `volo train`; the report is written to analysis/ in the run folder.

The second takes the flags of `volo tune` (`--space mix --help` lists them). The best trial's settings, say those of
trial 7, are trained in <output-dir>/<sweep-name>/winner-0007 with --num-workers workers for --winner-epochs epochs. By
default that is as long as the trials, so the trial's own run is reused and no epoch is trained twice.

The same command resumes: what is finished is skipped. If --budget-minutes ends the sweep, its best trial so far wins.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from volo.cli.analyze import Flags, analyze_checkpoint
from volo.cli.parse import check_places, given_flags, parse_settings, program, refuse_torchrun
from volo.cli.tune import WITHOUT, parse_sweep, tune
from volo.cluster.connect import prepare
from volo.errors import InputError
from volo.settings.config import Settings, build_settings
from volo.settings.paths import folder_to_write
from volo.tuning.options import SweepOptions

NO_SHOW = "--no-show"
OF_WINNER = {"num_workers", "max_failures"}


@dataclass(frozen=True)
class PipelineOptions(SweepOptions):
    """How to search, with which resources, and how long to train the winner."""

    winner_epochs: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Epochs to train the best trial's settings for. Default: --epochs, like the trials."""


def main(argv: Sequence[str]) -> None:
    settings, options = _parsed([arg for arg in argv if arg != NO_SHOW])
    if settings is None:
        return
    check_places(settings)
    if options is None:
        folder_to_write(settings.run_dir, "the run folder")
    if settings.run.num_workers == 0:
        raise InputError("volo pipeline runs on Ray, got --num-workers 0; use volo train, then volo analyze")
    if settings.run.seeds is not None:
        raise InputError(
            f"volo pipeline trains one run, got seeds={list(settings.run.seeds)}; use volo train for several"
        )
    refuse_torchrun(program("pipeline"))
    split = _split_to_analyze(settings)
    with contextlib.ExitStack() as cluster:
        if options is not None:
            settings = _searched(settings, options, cluster)
        prepare(settings.run.address, settings.run.dashboard_host)
        from volo.cluster.trainer import train_on_ray

        train_on_ray(settings, cluster)
        analyze_checkpoint(
            Flags(
                checkpoint=settings.home,
                output_dir=None if settings.is_in_bucket else str(settings.run_dir / "analysis"),
                split=split,
                no_show=NO_SHOW in argv,
            ),
            settings.run,
        )


def _split_to_analyze(settings: Settings) -> Literal["test", "val"]:
    """The split to analyze, known before anything is trained: the validation images if there are no test images.

    Raises:
        InputError: there are neither.
    """
    from volo.data.datasets import has_test

    data = settings.resolved().data.here()
    if has_test(data):
        return "test"
    if not data.validates:
        raise InputError(
            f"volo pipeline analyzes test or validation images, got no test split in {data.data_dir} and "
            "--val-fraction 0; add test/<class>/, or omit --val-fraction"
        )
    return "val"


def _parsed(argv: Sequence[str]) -> tuple[Settings | None, PipelineOptions | None]:
    """The settings and, for a sweep, its options."""
    description = f"{__doc__}\n{NO_SHOW}: do not open the report in a browser."
    if "--space" not in given_flags(argv):
        return parse_settings(argv, prog=program("pipeline"), description=description), None
    without = [name for name in WITHOUT if name not in OF_WINNER]
    return parse_sweep(PipelineOptions, argv, prog=program("pipeline"), description=description, without=without)


def _searched(settings: Settings, options: PipelineOptions, cluster: contextlib.ExitStack) -> Settings:
    """Runs what is left of the sweep. Returns the settings of its winner's run."""
    if options.winner_epochs is not None:
        _check_epochs(settings, options.winner_epochs)
    study = tune(settings, options, cluster)
    from volo.tuning.winner import take_over, winner_settings

    winner = winner_settings(study, options.winner_epochs)
    take_over(study, winner)
    return winner


def _check_epochs(settings: Settings, num_epochs: int) -> None:
    """Raises InputError for a length that the winner cannot have, before there is one."""
    try:
        build_settings(settings.to_dict(), {"optim": {"epochs": num_epochs}})
    except InputError as error:
        raise InputError(f"--winner-epochs {num_epochs}: {error}") from None
