"""Search for better settings: trials from a search space; a study decides what to try next and what to stop early.

    volo tune --space architecture --dataset cifar100 --num-samples 50 --epochs 20 --sweep-name first
    volo train --config outputs/first/best_config.yaml --run-name best

Takes the flags of `volo train` for what all trials share, on top of the recipe that the space names (`volo spaces`).
The same command resumes a sweep, however it ended; a larger --num-samples extends it.

    <output-dir>/<sweep-name>/trials.csv          the trials, ranked; updated as they end
                              best_config.yaml    for volo train --config
                              sweep_report.html   what was tried, the results, which settings matter; written at the end
                              study.journal       Optuna's study; optuna-dashboard opens it, also during the sweep
                              trials/0007/        one run folder per trial, for TensorBoard
                              confirm.json        what --confirm-top found; its runs are in confirm/
"""

import contextlib
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from volo.cli.parse import check_places, given_flags, known_first, parse_settings_and, program, refuse_torchrun
from volo.cli.short_help import asks_for_help
from volo.cluster.connect import prepare
from volo.errors import InputError
from volo.settings.config import Settings
from volo.settings.paths import check_name, check_path, folder_to_write
from volo.tuning.options import SweepObjective, SweepOptions, check_base
from volo.tuning.search.library import library

if TYPE_CHECKING:
    from volo.tuning.home import SweepHome
    from volo.tuning.search.spaces import Space
    from volo.tuning.study import SweepStudy

# Settings that have no flag in a sweep, and the flags to use instead.
INSTEAD = {
    "num_workers": "--workers-per-trial",
    "run_name": "--sweep-name",
    "max_steps": "--epochs",
    "patience": "--pruner",
    "seeds": "--seed",
    "resume_path": "--init-weights",
}
Options = TypeVar("Options", bound=SweepOptions)
WITHOUT = (*INSTEAD, "keep_checkpoints", "max_failures")


def main(argv: Sequence[str]) -> None:
    settings, options = parse_sweep(SweepOptions, argv, prog=program("tune"), description=__doc__, without=WITHOUT)
    if settings is not None:
        tune(settings, options)


def parse_sweep(
    own: type[Options], argv: Sequence[str], *, prog: str, description: str, without: Collection[str]
) -> tuple[Settings | None, Options]:
    """Like `parse_settings_and`, on top of the recipe that the space names.

    Args:
        without: Settings that have no flag here.
    """
    given = {flag.removeprefix("--").replace("-", "_") for flag in given_flags(argv)}
    if wrong := sorted(given & {*INSTEAD} & {*without}):
        raise InputError(f"a sweep has no --{wrong[0].replace('_', '-')}; use {INSTEAD[wrong[0]]}")
    settings, options = parse_settings_and(own, _with_recipe(argv), prog=prog, description=description, without=without)
    if settings is not None:
        if options.sweep_name is not None:
            check_name(options.sweep_name, "--sweep-name")
        options.check()
        check_places(settings)
        refuse_torchrun(prog)
    return settings, options


def tune(settings: Settings, options: SweepOptions, cluster: contextlib.ExitStack | None = None) -> "SweepStudy":
    """Runs the sweep, or what is left of it. Refuses what can be refused before torch and Ray are loaded. `cluster`
    keeps the connection open for a training that follows, if given."""
    prepare(settings.run.address, settings.run.dashboard_host)
    from volo.tuning.home import sweep_home
    from volo.tuning.search.spaces import check_space, load_space

    space = load_space(check_path(options.space, "--space"), library())
    check_base(settings, options.objectives_of(SweepObjective(space.metric, space.mode)), options)
    check_space(space, settings.to_dict())
    home = sweep_home(settings.run.output_dir, options.folder_name(space.name))
    if settings.run.fresh:
        _set_aside(home, space, settings, options)
    folder_to_write(home.sweep_dir, "the sweep's folder")
    with home.held():
        from volo.tuning.study import SweepStudy

        study = SweepStudy(home.sweep_dir, space, settings, options, home)
        from volo.tuning.sweep import run_sweep

        run_sweep(study, cluster)
    return study


def _set_aside(home: "SweepHome", space: "Space", settings: Settings, options: SweepOptions) -> None:
    """Renames an earlier sweep of this name once all that a new one needs has been checked, except the cluster."""
    home.check_is_ours()
    if home.is_empty():
        return
    from volo.runs.folder import open_data
    from volo.tuning.study import SweepStudy

    with tempfile.TemporaryDirectory() as elsewhere:
        SweepStudy(Path(elsewhere), space, settings, options)
    open_data(settings.resolved(), is_new=True)
    home.set_aside()


def _with_recipe(argv: Sequence[str]) -> list[str]:
    """The command line, with the space's own recipe if it names neither a recipe nor a file of settings."""
    if given_flags(argv) & {"--recipe", "--config"} or asks_for_help(argv):
        return list(argv)
    if not (name := known_first(argv, "--space").space):
        return list(argv)
    from volo.tuning.search.spaces import load_space

    space = load_space(check_path(name, "--space"), library())
    return [*argv, "--recipe", space.recipe] if space.recipe else list(argv)
