"""Weights from a file into a model: published, timm's, or this project's own. Reading them never runs code.

What fits another image size or other classes is made to fit: position embeddings are resized (bicubic), heads of other
widths stay fresh. All else must be there, with the right shape.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from volo.errors import InputError
from volo.model.embedding import resize_position_embedding

HEADS = ("head", "aux_head")
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema")
MAX_LISTED = 8


def load_weights(model: nn.Module, path: str | Path) -> list[str]:
    """Loads a file of weights into the model.

    Args:
        model: Of this project.
        path: A `.safetensors`, or a file of `torch.save` that holds tensors alone, bare or below one of `WRAPPERS`.

    Returns:
        What was made to fit, a line each; empty where all of it did.

    Raises:
        InputError: a file that cannot be read or holds more than tensors and plain values (nothing in it is run), and
            missing, extra or wrongly shaped entries, which are listed.
    """
    found = read_state_dict(path)
    wanted = model.state_dict()
    fitted, notes = _fitted(found, wanted)
    _check(path, fitted, wanted)
    model.load_state_dict(fitted)
    return notes


def check_weights(model: nn.Module, path: str | Path) -> None:
    """Raises as `load_weights`, and loads nothing; the model may be on the meta device."""
    wanted = model.state_dict()
    fitted, _ = _fitted(read_state_dict(path), wanted)
    _check(path, fitted, wanted)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Raises InputError as `load_weights`."""
    path = Path(path).expanduser()
    try:
        values = _read(path)
    except Exception as error:  # a foreign or damaged file makes the readers stumble in many ways
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".partition(". ")[0]
        raise InputError(
            f"a file of weights must be a .safetensors, or a whole .pth of tensors and plain values only, got {path} "
            f"({reason}); nothing in it was run"
        ) from None
    for name in WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
            values = values[name]
    if not isinstance(values, Mapping) or not values or not all(isinstance(t, Tensor) for t in values.values()):
        raise InputError(f"a file of weights must hold a state_dict of tensors, got other values in {path}")
    return {name.removeprefix("module."): tensor for name, tensor in values.items()}


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _fitted(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    fitted, notes = dict(found), []
    for name in found.keys() & wanted.keys():
        old, new = found[name], wanted[name]
        if old.shape == new.shape:
            continue
        if name.split(".")[0] in HEADS and old.shape[1:] == new.shape[1:]:
            fitted[name] = new
            notes.append(f"{name} starts afresh: {old.shape[0]} classes in the file, {new.shape[0]} here")
        elif "pos_embed" in name and old.ndim == 4 and old.shape[-1] == new.shape[-1]:
            fitted[name] = resize_position_embedding(old.float(), new.shape[1], new.shape[2]).to(old.dtype)
            notes.append(f"{name} resized from {_grid(old)} to {_grid(new)} patches")
    return fitted, sorted(notes)


def _check(path: str | Path, fitted: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    shapes = [
        f"{name} {tuple(fitted[name].shape)} for {tuple(wanted[name].shape)}"
        for name in sorted(fitted.keys() & wanted.keys())
        if fitted[name].shape != wanted[name].shape
    ]
    faults = {
        "missing": sorted(wanted.keys() - fitted.keys()),
        "not of this model": sorted(fitted.keys() - wanted.keys()),
        "of another shape": shapes,
    }
    said = [f"{what}: {_listed(names)}" for what, names in faults.items() if names]
    if said:
        raise InputError(
            f"weights must fit the model entry by entry, got {path} with " + "; ".join(said)
            + "; choose the --model they were made for"
        )  # fmt: skip


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _grid(embedding: Tensor) -> str:
    return f"{embedding.shape[1]}x{embedding.shape[2]}"
