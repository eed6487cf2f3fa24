"""List the runs under a folder: state, best validation top-1, epochs, rate, size on disk.

    volo runs --output-dir outputs
    volo runs --output-dir s3://bucket/runs
    volo runs --fetch s3://bucket/runs/quickstart

State: running, finished, stopped early (by its sweep), failed (the run's failure.txt or the sweep's trials.csv says
why), interrupted (the same command resumes), never saved.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from volo.cli.parse import parse_flags, program
from volo.console import format_bytes, percent, print_table
from volo.errors import InputError
from volo.runs.listing import Run, find_runs, read_run
from volo.settings.buckets import STARTS, check_place, is_in_bucket
from volo.settings.paths import folder_to_write, path_to_read, shown

COLUMNS = ("run", "state", "best", "at epoch", "epochs", "images/s", "size")


@dataclasses.dataclass(frozen=True)
class Flags:
    output_dir: str = "./outputs"
    """Folder with run folders, or a place on object storage, searched at any depth."""
    fetch: str | None = None
    """Copy this run, sweep or training of several seeds from object storage into output_dir, with the newest and the
    best checkpoint of each run."""


def main(argv: Sequence[str]) -> None:
    flags = parse_flags(Flags, argv, prog=program("runs"), description=__doc__)
    if flags.fetch is not None:
        _fetch(flags.fetch, flags.output_dir)
        return
    place = check_place(flags.output_dir, "--output-dir")
    if is_in_bucket(place):
        from volo.runs.stored_listing import stored_runs

        _show(*stored_runs(place), place)
        return
    root = path_to_read(flags.output_dir, "--output-dir")
    if not root.is_dir():
        raise InputError(f"--output-dir must be a folder, got {root}; name the one that `volo train` wrote to")
    _show(root, [read_run(folder) for folder in find_runs(root)], str(root))


def _fetch(place: str, output_dir: str) -> None:
    if not is_in_bucket(place):
        raise InputError(
            f"--fetch must name a run on object storage ({', '.join(STARTS)}), got {shown(place)}; correct it"
        )
    into = folder_to_write(output_dir, "--output-dir")
    from volo.runs.stored_listing import fetch_run

    print(f"run folder: {fetch_run(place, into)}")


def _show(root: Path, runs: list[Run], place: str) -> None:
    if not runs:
        print(f"no runs in {place}")
        return
    print_table(COLUMNS, [_row(run, root) for run in runs], num_left=2)


def _row(run: Run, root: Path) -> tuple[str, ...]:
    scores = run.scores
    return (
        str(run.folder.relative_to(root)),
        run.state,
        "-" if scores.best is None else percent(scores.best, 2),
        "-" if scores.best_epoch is None else str(scores.best_epoch),
        f"{scores.num_epochs}/{run.of_epochs or '?'}",
        "-" if run.images_per_s is None else f"{run.images_per_s:,.0f}",
        format_bytes(run.size),
    )
