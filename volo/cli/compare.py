"""Compare two runs: settings that differ, metrics side by side with a picture, and whether their weights are the same.

    volo compare outputs/one outputs/other

Exits with code 0 if the weights of the newest checkpoints are equal bit for bit, with 5 if they differ.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from volo.cli.parse import parse_flags, program
from volo.console import print_table
from volo.errors import ExitCode, first_of
from volo.settings.buckets import place_to_read
from volo.settings.paths import folder_to_write

if TYPE_CHECKING:
    from volo.analysis.compare import Comparison, WeightsDifference

SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Flags:
    runs: Annotated[tuple[str, str], tyro.conf.Positional]
    """Two run folders, or places of runs on object storage."""
    output_dir: str = "./outputs/volo_compare"
    """Folder for the picture, comparison.png."""


def main(argv: Sequence[str]) -> None:
    flags = parse_flags(Flags, argv, prog=program("compare"), description=__doc__)
    for run in flags.runs:
        place_to_read(run, "a run to compare")
    output_dir = folder_to_write(flags.output_dir, "--output-dir")
    from volo.analysis.compare import compare_runs, save_comparison
    from volo.runs.copies import local_copy

    one, other = (local_copy(run, "a run to compare") for run in flags.runs)

    found = compare_runs(one, other)
    _show(found, one, other)
    if picture := save_comparison(one, other, output_dir):
        print(f"picture: {picture}")
    print(_verdict(found.weights))
    sys.exit(ExitCode.DONE if found.weights.is_identical else ExitCode.DIFFERENT)


def _show(found: "Comparison", one: Path, other: Path) -> None:
    from volo.analysis.compare import told_apart

    names = told_apart(one, other)
    rows = [(name, *(str(value) for value in pair)) for name, pair in found.settings.items()]
    print_table(("setting", *names), rows or [("none differs", "", "")], num_left=3)
    scores = [dataclasses.asdict(score) for score in found.scores]
    measured = [("step", *(f"{step:,}" for step in found.steps))]
    for key, title in {"num_epochs": "epochs", "best": "best val top-1", "last": "last val top-1"}.items():
        measured.append((title, *(_number(score[key]) for score in scores)))
    measured.append(("training loss", *(_number(score["train_loss"], ".4f") for score in scores)))
    print_table(("metric", *names), measured, num_left=1)


def _number(value: float | int | None, form: str = ".2%") -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:{form}}"


def _verdict(weights: "WeightsDifference") -> str:
    if weights.unshared:
        return f"weights differ: different models, only one of which has {first_of(weights.unshared, SHOWN)}"
    if weights.is_identical:
        return "weights are the same, bit for bit"
    if not weights.largest:
        return f"weights differ in bits, not in value (as 0 and -0, or two NaN), in {weights.where}"
    return f"weights differ, by {weights.largest:.3g} at most, in {weights.where}"
