"""Loads weights into a model: published ones, timm's, or this project's own. Reading a file never runs code.

Weights for another image size or other classes are adapted: position embeddings are resized (bicubic), and heads that
are missing or have another width keep their initialization. Those for color or gray images are adapted to other
channels (`adapted`). Everything else must be present with the right shape.
"""

import argparse
import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import safetensors.torch
from torch import Tensor, nn

from volo.errors import InputError, first_of
from volo.model.embedding import resize_position_embedding
from volo.model.tensor_files import load_values
from volo.settings.data import GRAY, RGB
from volo.settings.paths import local_path

HEADS = ("head", "aux_head")
# Keys under which training checkpoints keep a state dict, preferred first: an average is better than the raw weights.
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile, and Lightning
COUNTERS = ("n_averaged",)  # next to the weights in the state dict of PyTorch's AveragedModel
# Harmless classes that checkpoints hold next to the tensors: timm's have the command line.
HARMLESS = (argparse.Namespace,)
MAX_LISTED = 8


def load_weights(model: nn.Module, found: Mapping[str, Tensor], source: str | Path) -> list[str]:
    """Loads weights into the model.

    Args:
        model: One of this project's models.
        found: Tensors by name, as `read_state_dict` returns them.
        source: Where they come from, for messages.

    Returns:
        Notes on what was adapted, one line each; empty if everything fit.

    Raises:
        InputError: entries are missing, extra, of the wrong shape, or not floating-point numbers where the model's are;
            they are listed, and nothing is loaded.
    """
    fitted, notes = _fitting(model, found, source)
    model.load_state_dict(fitted)
    return notes


def check_weights(model: nn.Module, found: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises the errors of `load_weights` without loading anything; the model may be on the meta device."""
    _fitting(model, found, source)


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Reads the tensors of a file by name, on the CPU, without the prefixes that wrappers add to all names.

    Args:
        path: A `.safetensors` file, or a file of `torch.save` with tensors and plain values only: a state dict, or one
            under a key in `WRAPPERS`, the first of which counts if there are several.

    Returns:
        The tensors, and notes, one line each: which state dict was taken if the file has several.

    Raises:
        InputError: the file cannot be read or holds anything else; nothing in it is run.
    """
    path = local_path(path, "a file of weights")
    try:
        values = _read(path)
    except Exception as error:  # the readers raise many kinds of errors for foreign or damaged files
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".partition(". ")[0]
        raise InputError(
            f"a file of weights must be a .safetensors, or a complete .pth of only tensors and plain values, got "
            f"{path} ({reason}); nothing in it was run"
        ) from None
    values, notes = _unwrapped(values)
    if not is_state_dict(values):
        raise InputError(f"a file of weights must hold a state_dict of tensors, got other values in {path}")
    return _without_prefixes(values), notes


def _read(path: Path) -> object:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no file: a folder, pipe, socket or device")
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return load_values(path, HARMLESS)


def _unwrapped(values: object) -> tuple[object, list[str]]:
    """The value under the preferred wrapper, which may be nested, and a note if there were several."""
    notes = []
    while isinstance(values, Mapping):
        names = [name for name in WRAPPERS if isinstance(values.get(name), Mapping) and values[name]]
        if not names:
            break
        if len(names) > 1:
            notes.append(f"took {names[0]}, of the file's {', '.join(names)}")
        values = values[names[0]]
    return values, notes


def is_state_dict(values: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether a value holds tensors by name, and nothing else."""
    if not isinstance(values, Mapping) or not values:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in values.items())


def _without_prefixes(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in values.items() if name not in COUNTERS}
    while prefix := next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _fitting(model: nn.Module, found: Mapping[str, Tensor], source: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    wanted = model.state_dict()
    fitted, notes = _fitted(dict(found), wanted, input_weight(model))
    heads, more = _heads(fitted, wanted)
    fitted = {name: tensor for name, tensor in fitted.items() if name in wanted or _head_of(name) not in heads}
    fitted |= {name: tensor for name, tensor in wanted.items() if _head_of(name) in heads}
    _check(source, fitted, wanted)
    return fitted, sorted([*notes, *more])


def _heads(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[set[str], list[str]]:
    """The heads that only the file or only the model has, and a note on each: a backbone or feature model has none."""
    heads, notes = set(), []
    for head in HEADS:
        in_file, in_model = (any(_head_of(name) == head for name in names) for names in (found, wanted))
        if in_model and not in_file:
            notes.append(f"{head} keeps its initialization: there are no weights for it")
        elif in_file and not in_model:
            notes.append(f"{head} is ignored: this model has none")
        if in_file != in_model:
            heads.add(head)
    return heads, notes


def _head_of(name: str) -> str | None:
    """The head that an entry belongs to, or None."""
    first = name.split(".")[0]
    return first if first in HEADS else None


def _fitted(found: dict[str, Tensor], wanted: Mapping[str, Tensor], first: str) -> tuple[dict[str, Tensor], list[str]]:
    fitted, notes = dict(found), []
    for name in found.keys() & wanted.keys():
        old, new = found[name], wanted[name]
        if old.shape == new.shape:
            continue
        if _head_of(name) and old.shape[1:] == new.shape[1:]:
            fitted[name] = new
            notes.append(f"{name} keeps its initialization: {old.shape[0]} classes in the file, {new.shape[0]} here")
        elif "pos_embed" in name and old.ndim == 4 and old.shape[-1] == new.shape[-1]:
            fitted[name] = resize_position_embedding(old.float(), new.shape[1], new.shape[2]).to(old.dtype)
            notes.append(f"{name} resized from {_grid(old)} to {_grid(new)} patches")
        elif name == first and _differs_in_channels(old, new) and old.shape[1] in (GRAY, RGB):
            fitted[name] = adapted(old, new.shape[1])
            notes.append(f"{name} adapted from {old.shape[1]} to {new.shape[1]} channels")
    return fitted, notes


def input_weight(model: nn.Module) -> str:
    """The name of the weight, (O, in_chans, H, W), of the convolution that sees the images."""
    named = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return f"{next(named)}.weight"


def adapted(weight: Tensor, in_chans: int) -> Tensor:
    """A convolution's weight (O, I, H, W) for images of another number of channels, by timm's rule: for gray the sum
    over the channels; else the channels again and again, times I / in_chans, which keeps the scale of what comes
    out."""
    if in_chans == 1:
        return weight.float().sum(dim=1, keepdim=True).to(weight.dtype)
    num_before = weight.shape[1]
    repeated = weight.float().repeat(1, -(-in_chans // num_before), 1, 1)[:, :in_chans]
    return (repeated * (num_before / in_chans)).to(weight.dtype)


def _differs_in_channels(old: Tensor, new: Tensor) -> bool:
    return old.ndim == new.ndim == 4 and (old.shape[0], *old.shape[2:]) == (new.shape[0], *new.shape[2:])


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
        "of another type": not_floating(fitted, wanted),
    }
    said = [f"{what}: {first_of(names, MAX_LISTED)}" for what, names in faults.items() if names]
    if said:
        raise InputError(
            f"weights must fit the model entry by entry, got {source} with " + "; ".join(said)
            + "; choose the --model they were made for, and its --in-chans"
        )  # fmt: skip


def not_floating(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """The tensors that are wanted as floating-point numbers and are not, in words: a copy would drop digits."""
    return [
        f"{name} of {found[name].dtype} for {wanted[name].dtype}"
        for name in sorted(found.keys() & wanted.keys())
        if wanted[name].is_floating_point() and not found[name].is_floating_point()
    ]


def _grid(embedding: Tensor) -> str:
    return f"{embedding.shape[1]}x{embedding.shape[2]}"
