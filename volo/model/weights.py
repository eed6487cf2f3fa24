"""Weights into a model: published, timm's, or this project's own. Reading a file of them never runs code.

What fits another image size or other classes is made to fit: position embeddings are resized (bicubic), heads that are
missing, or of another width, start afresh. All else must be there, with the right shape.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from volo.errors import InputError, first_of
from volo.model.embedding import resize_position_embedding

HEADS = ("head", "aux_head")
# Where training checkpoints keep a state dict, the preferred first: the average, where there is one, is the better.
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile and Lightning
COUNTERS = ("n_averaged",)  # beside the weights in the state dict of PyTorch's AveragedModel
# Classes without code of their own that checkpoints hold beside the tensors: timm's has its command line.
HARMLESS = (argparse.Namespace,)
MAX_LISTED = 8


def load_weights(model: nn.Module, found: Mapping[str, Tensor], source: str | Path) -> list[str]:
    """Loads weights into the model.

    Args:
        model: Of this project.
        found: Tensors by name, as `read_state_dict` returns them.
        source: Where they come from, for the messages.

    Returns:
        What was made to fit, a line each; empty where all of it did.

    Raises:
        InputError: missing, extra or wrongly shaped entries, which are listed; nothing is loaded then.
    """
    fitted, notes = _fitting(model, found, source)
    model.load_state_dict(fitted)
    return notes


def check_weights(model: nn.Module, found: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises as `load_weights`, and loads nothing; the model may be on the meta device."""
    _fitting(model, found, source)


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file by name, on the CPU, without the prefixes that wrappers give all of them.

    Args:
        path: A `.safetensors`, or a file of `torch.save` that holds tensors and plain values alone, the state dict
            bare or below one of `WRAPPERS`; of several the first there counts.

    Returns:
        The tensors, and what to say of them, a line each: which state dict was taken where the file has several.

    Raises:
        InputError: a file that cannot be read or holds other things; nothing in it is run.
    """
    path = Path(path).expanduser()
    try:
        values = _read(path)
    except Exception as error:  # a foreign or damaged file makes the readers stumble in many ways
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".partition(". ")[0]
        raise InputError(
            f"a file of weights must be a .safetensors, or a whole .pth of tensors and plain values only, got {path} "
            f"({reason}); nothing in it was run"
        ) from None
    values, notes = _unwrapped(values)
    if not _is_state_dict(values):
        raise InputError(f"a file of weights must hold a state_dict of tensors, got other values in {path}")
    return _without_prefixes(values), notes


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    with torch.serialization.safe_globals(list(HARMLESS)):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(values: object) -> tuple[object, list[str]]:
    """What lies below the preferred wrapper, however often it is wrapped."""
    notes = []
    while isinstance(values, Mapping):
        names = [name for name in WRAPPERS if isinstance(values.get(name), Mapping) and values[name]]
        if not names:
            break
        if len(names) > 1:
            notes.append(f"took {names[0]}, of the file's {', '.join(names)}")
        values = values[names[0]]
    return values, notes


def _is_state_dict(values: object) -> bool:
    return isinstance(values, Mapping) and bool(values) and all(isinstance(t, Tensor) for t in values.values())


def _without_prefixes(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in values.items() if name not in COUNTERS}
    while prefix := next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _fitting(model: nn.Module, found: Mapping[str, Tensor], source: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    wanted = model.state_dict()
    fitted, notes = _fitted(dict(found), wanted)
    heads, more = _heads(fitted, wanted)
    fitted = {name: tensor for name, tensor in fitted.items() if name in wanted or _head_of(name) not in heads}
    fitted |= {name: tensor for name, tensor in wanted.items() if _head_of(name) in heads}
    _check(source, fitted, wanted)
    return fitted, sorted([*notes, *more])


def _heads(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[set[str], list[str]]:
    """The heads that only one side has, whole, and a line on each: a backbone has none, nor a model of features."""
    heads, notes = set(), []
    for head in HEADS:
        in_file, in_model = (any(_head_of(name) == head for name in names) for names in (found, wanted))
        if in_model and not in_file:
            notes.append(f"{head} starts afresh: there are no weights for it")
        elif in_file and not in_model:
            notes.append(f"{head} is left out: this model has none")
        if in_file != in_model:
            heads.add(head)
    return heads, notes


def _head_of(name: str) -> str | None:
    """The head that an entry belongs to."""
    first = name.split(".")[0]
    return first if first in HEADS else None


def _fitted(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    fitted, notes = dict(found), []
    for name in found.keys() & wanted.keys():
        old, new = found[name], wanted[name]
        if old.shape == new.shape:
            continue
        if _head_of(name) and old.shape[1:] == new.shape[1:]:
            fitted[name] = new
            notes.append(f"{name} starts afresh: {old.shape[0]} classes in the file, {new.shape[0]} here")
        elif "pos_embed" in name and old.ndim == 4 and old.shape[-1] == new.shape[-1]:
            fitted[name] = resize_position_embedding(old.float(), new.shape[1], new.shape[2]).to(old.dtype)
            notes.append(f"{name} resized from {_grid(old)} to {_grid(new)} patches")
    return fitted, notes


def _check(source: str | Path, fitted: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
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
    said = [f"{what}: {first_of(names, MAX_LISTED)}" for what, names in faults.items() if names]
    if said:
        raise InputError(
            f"weights must fit the model entry by entry, got {source} with " + "; ".join(said)
            + "; choose the --model they were made for"
        )  # fmt: skip


def _grid(embedding: Tensor) -> str:
    return f"{embedding.shape[1]}x{embedding.shape[2]}"
