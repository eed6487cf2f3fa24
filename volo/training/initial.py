"""The weights that a run begins with: of a file anybody made, or of another run."""

from pathlib import Path

import torch
from torch import Tensor, nn

from volo.data.folders.class_names import extra, places
from volo.model.build import build_model
from volo.model.weights import HEADS, check_weights, load_weights, read_state_dict
from volo.runs import checkpoint
from volo.runs.model_file import is_model_file
from volo.settings.config import Settings

Found = tuple[dict[str, Tensor], list[str]]


def load_init_weights(model: nn.Module, path: str, class_names: tuple[str, ...]) -> list[str]:
    """Loads the weights to begin with.

    Args:
        model: Of this project.
        path: A file of weights (volo/model/weights.py), or a model as `checkpoint.find` takes it: a run folder (its
            best checkpoint), `best` or `last`, a checkpoint folder, a model file.
        class_names: The data's. A head that was trained on the same classes is kept, in this order; one that was
            trained on others starts afresh, also where there are as many of them.

    Returns:
        What was taken and made to fit, a line each.

    Raises:
        InputError: nothing there, nothing that can be read, or another model's.
    """
    found, notes = _found(path, class_names)
    return [*notes, *load_weights(model, found, path)]


def check_init_weights(settings: Settings, class_names: tuple[str, ...]) -> None:
    """Raises InputError where `load_init_weights` would."""
    if path := settings.optim.init_weights:
        with torch.device("meta"):
            model = build_model(settings.model, num_classes=len(class_names), image_size=settings.data.image_size)
        check_weights(model, _found(path, class_names)[0], path)


def _found(path: str, class_names: tuple[str, ...]) -> Found:
    asked = Path(path).expanduser()
    if not (asked.is_dir() or asked.name in ("best", "last") or is_model_file(asked)):
        return read_state_dict(asked)
    found = checkpoint.find(asked)
    weights, description = checkpoint.load_model(found)
    heads, notes = _for_classes(weights, description.class_names, class_names)
    return heads, [f"weights of {found}, step {description.step:,}", *notes]


def _for_classes(weights: dict[str, Tensor], before: tuple[str, ...], now: tuple[str, ...]) -> Found:
    """The weights with the heads' rows in the order of the classes now, or without heads where the classes differ."""
    heads = {name for name in weights if name.split(".")[0] in HEADS}
    if extra(before, now) or extra(now, before):
        others = {name: tensor for name, tensor in weights.items() if name not in heads}
        return others, [f"trained on other classes: {len(before)} there, {len(now)} here"]
    order = torch.tensor(places(now, before))
    return {name: tensor[order] if name in heads else tensor for name, tensor in weights.items()}, []
