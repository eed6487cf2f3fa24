"""The model that a file describes, built only if the file's tensors bear the description out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volo.errors import InputError, first_of
from volo.model.build import AnyVOLO, model_for
from volo.model.weights import not_floating
from volo.runs import checkpoint
from volo.runs.model_file import Description

MIN_TENSORS_PER_BLOCK = 8
BLOCKS = ("local_depth", "global_depth", "class_depth", "stage_depths", "layers")
NUM_SHOWN = 4


def rebuild(path: Path) -> tuple[AnyVOLO, Description]:
    """The model of a checkpoint folder or a lone model file, on the CPU, with its weights.

    Raises:
        InputError: a file that is damaged or foreign, or whose tensors are others than its description says; in that
            case no memory was taken for what it says.
    """
    weights, description = checkpoint.load_model(path)
    check_described(weights, description, path)
    model = _built(description)
    model.load_state_dict(weights)
    return model, description


def check_described(weights: Mapping[str, Tensor], description: Description, path: Path) -> None:
    """Raises InputError if the tensors are others than those of the model that the description is of."""
    num_blocks = _num_blocks(description.settings.model.model_dump())
    if num_blocks * MIN_TENSORS_PER_BLOCK > len(weights):
        raise _unlike(path, f"{num_blocks:,} blocks described, {len(weights):,} tensors in the file")
    try:
        with torch.device("meta"):  # takes no memory, whatever the sizes
            wanted = _built(description).state_dict()
    except (RuntimeError, ValueError, OverflowError, TypeError):
        raise _unlike(path, "sizes described that no tensor can have") from None
    if faults := _differences(weights, wanted):
        raise _unlike(path, first_of(faults, NUM_SHOWN))


def _built(description: Description) -> AnyVOLO:
    settings = description.settings
    return model_for(settings, len(description.class_names))


def _num_blocks(model: Mapping[str, Any]) -> int:
    """Of every kind, and as many for a stem's convolutions as they have tensors."""
    counts = [model.get(name) or 0 for name in BLOCKS]
    blocks = sum(sum(count) if isinstance(count, tuple) else count for count in counts)
    num_convolutions = len(model["stem_channels"] or ()) * (model["stem_depth"] or 0)
    return blocks + 2 * num_convolutions // MIN_TENSORS_PER_BLOCK


def _differences(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """In words, without the tensors that are the same on both sides."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (weights, wanted)]
    found, described = shapes
    names = sorted(found.keys() | described.keys())
    others = [
        f"{name} of shape {found.get(name, 'none')} where {described.get(name, 'none')} is described"
        for name in names
        if found.get(name) != described.get(name)
    ]
    return others + not_floating(weights, wanted)


def _unlike(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} must hold the weights that its settings describe, got others ({what}); it is damaged or was edited; "
        "use another copy"
    )
