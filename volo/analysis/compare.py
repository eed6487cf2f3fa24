"""Two runs side by side: settings that differ, what each reached, curves, and whether their weights are the same."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volo.errors import InputError, cut, writing
from volo.plots.curves import pairs_of_curves
from volo.plots.figures import BLUE, ORANGE, new_figure, save, style
from volo.runs import checkpoint
from volo.runs.listing import Scores, read_scores
from volo.runs.model_file import Description
from volo.runs.records import read_records
from volo.settings.differences import differences

PICTURE = "comparison.png"
NAME_LENGTH = 40  # characters
NUM_DIGITS = 12  # of a digest, shown


@dataclass(frozen=True)
class WeightsDifference:
    """Between the weights to use of two checkpoints.

    Attributes:
        largest: Largest absolute difference; also 0 if only bits differ, such as 0 and -0, or two NaN.
        where: The tensor that has it; empty if the weights are identical bit for bit.
        unshared: Names and shapes that only one of them has; if there are any, no values are compared.
    """

    largest: float
    where: str
    unshared: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        return not self.where and not self.unshared


@dataclass(frozen=True)
class Comparison:
    """`settings` maps a setting's dotted name to both values, and "images" to digests if they differ; `steps` and
    `scores` are of each run's newest checkpoint and records."""

    settings: dict[str, tuple[Any, Any]]
    steps: tuple[int, int]
    scores: tuple[Scores, Scores]
    weights: WeightsDifference


def compare_runs(one: Path, other: Path) -> Comparison:
    """Compares the newest valid checkpoints.

    Raises:
        InputError: a path that is no run folder, or has no checkpoint.
    """
    for run in (one, other):
        if not (run / "checkpoints").is_dir():
            raise InputError(f"a run to compare must be a run folder with checkpoints, got {run}")
    weights, first = checkpoint.load_model(checkpoint.find(one, prefer="last"))
    others, second = checkpoint.load_model(checkpoint.find(other, prefer="last"))
    return Comparison(
        settings=differences(first.settings, second.settings) | _images_apart(first, second),
        steps=(first.step, second.step),
        scores=(read_scores(one), read_scores(other)),
        weights=weights_difference(weights, others),
    )


def _images_apart(one: Description, other: Description) -> dict[str, tuple[str, str]]:
    """The starts of both digests if the runs were trained on other images, as far as that is recorded."""
    digests = one.data_hash[:NUM_DIGITS], other.data_hash[:NUM_DIGITS]
    return {"images (sha256)": digests} if all(digests) and digests[0] != digests[1] else {}


def weights_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> WeightsDifference:
    """Compares tensors by name. Two NaN in the same place are no distance apart, NaN in one of them infinitely far."""
    shapes = [{_described(name, tensor) for name, tensor in weights.items()} for weights in (one, other)]
    if unshared := shapes[0] ^ shapes[1]:
        return WeightsDifference(0.0, "", tuple(sorted(unshared)))
    largest, where = 0.0, ""
    for name, tensor in one.items():
        if torch.equal(_bits(tensor), _bits(other[name])):
            continue
        where = where or name
        apart = (tensor.double() - other[name].double()).abs()
        both_nan = tensor.isnan() & other[name].isnan()
        found = apart.masked_fill(both_nan, 0).nan_to_num(nan=float("inf")).max().item()
        if found > largest:
            largest, where = found, name
    return WeightsDifference(largest, where, ())


def _described(name: str, tensor: Tensor) -> str:
    dtype = "" if tensor.dtype == torch.float32 else f" {tensor.dtype}".replace("torch.", "")
    return f"{name} {tuple(tensor.shape)}{dtype}"


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def told_apart(one: Path, other: Path) -> tuple[str, str]:
    """Names of two runs: those of their folders, and of folders of equal names what else of the paths differs."""
    if one.name != other.name or one == other:
        return one.name, other.name
    above = os.path.commonpath([one, other])
    return cut(one.relative_to(above), NAME_LENGTH), cut(other.relative_to(above), NAME_LENGTH)


@style()
def save_comparison(one: Path, other: Path, output_dir: Path) -> Path | None:
    """Writes comparison.png: losses and validation accuracy of both runs by step. None if there are no records.

    Raises:
        InferenceError: it cannot be written; an earlier one is intact.
    """
    names = told_apart(one, other)
    panels = pairs_of_curves([read_records(run) for run in (one, other)])
    if not panels:
        return None
    figure = new_figure(4.6 * len(panels), 3.4)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for points, name, color, line in zip(curves, names, (BLUE, ORANGE), ("-", "--"), strict=True):
            if points:
                marker = "o" if len(points) < 30 else None
                axes.plot(*zip(*points, strict=True), line, color=color, marker=marker, markersize=4, label=name)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.legend()
    with writing("the picture", output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        return save(figure, output_dir / PICTURE)
