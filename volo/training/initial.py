"""What a run starts from: weights of a file or of another run, or its own newest checkpoint."""

import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volo.data.decoded.cache import Images
from volo.data.folders.class_names import differences, extra, places, same_names
from volo.data.splits import Split
from volo.errors import InputError
from volo.log import LOGGER
from volo.model.build import model_for
from volo.model.weights import HEADS, check_weights, load_weights, read_state_dict
from volo.runs import checkpoint
from volo.runs.folder import Start, open_data
from volo.runs.images import check_images
from volo.runs.model_file import Description, is_model_file
from volo.runs.rebuild import check_described
from volo.runs.remote import local_weights
from volo.settings.config import ResolvedSettings, Settings
from volo.settings.data import PLACE_HERE
from volo.training.guards.same_data import own_place
from volo.training.learner import Learner
from volo.training.teacher import check_same_teacher, check_teacher, find_teacher
from volo.training.whitening import check_whitening
from volo.training.world import World

Found = tuple[dict[str, Tensor], list[str]]


def check_inputs(settings: ResolvedSettings, start: Start) -> tuple[Images, Split]:
    """Decodes the data. Raises InputError if a run cannot start there with this data, these weights or this teacher."""
    if place := own_place(settings.data):
        LOGGER.info(f"data are read from {place} on this machine, as ${PLACE_HERE} says")
    data, split = open_data(settings, is_new=start.checkpoint is None)
    if start.checkpoint is None:
        check_init_weights(settings, data.class_names)
        check_whitening(settings, split)
    else:
        before = check_same_data(start.checkpoint, settings, data, split)
        check_same_teacher(before.teacher_hash, before.settings.teaching.teacher, find_teacher(settings), "a run")
    check_teacher(settings, data.class_names)
    return data, split


def load_init_weights(model: nn.Module, path: str, class_names: tuple[str, ...]) -> list[str]:
    """Loads initial weights into a model.

    Args:
        model: One of this project's models.
        path: A file of weights (volo/model/weights.py), its address (volo/settings/weights.py), or a model as
            `checkpoint.find` takes it: a run folder (its best checkpoint), `best` or `last`, a checkpoint folder, a
            model file.
        class_names: Classes of the data. A head trained on the same classes is kept, reordered if need be; a head
            trained on other classes is initialized again, even if their number is the same.

    Returns:
        Notes on what was loaded and what was adapted, one line each.

    Raises:
        InputError: the path does not exist, cannot be read, or holds the weights of another model.
    """
    found, notes = _found(path, class_names)
    return [*notes, *load_weights(model, found, path)]


def check_init_weights(settings: Settings, class_names: tuple[str, ...]) -> None:
    """Raises InputError if `load_init_weights` would."""
    if path := settings.optim.init_weights:
        with torch.device("meta"):
            model = model_for(settings, len(class_names))
        check_weights(model, _found(path, class_names)[0], path)


def _found(path: str, class_names: tuple[str, ...]) -> Found:
    asked = local_weights(path, "--init-weights")
    if not (asked.is_dir() or asked.name in ("best", "last") or is_model_file(asked)):
        return read_state_dict(asked)
    found = checkpoint.find(asked)
    weights, description = checkpoint.load_model(found)
    check_described(weights, description, found)
    heads, notes = _for_classes(weights, description.class_names, class_names)
    return heads, [f"weights of {found}, step {description.step:,}", *notes]


def _for_classes(weights: dict[str, Tensor], before: tuple[str, ...], now: tuple[str, ...]) -> Found:
    """The weights with the rows of the heads in the order of `now`, or without heads if the classes differ."""
    heads = {name for name in weights if name.split(".")[0] in HEADS}
    if extra(before, now) or extra(now, before):
        others = {name: tensor for name, tensor in weights.items() if name not in heads}
        return others, [f"trained on other classes: {len(before)} then, {len(now)} now"]
    order = torch.tensor(places(now, before))
    return {name: tensor[order] if name in heads else tensor for name, tensor in weights.items()}, []


def resume(
    learner: Learner,
    folder: Path,
    settings: ResolvedSettings,
    world: World,
    images: Images,
    split: Split,
    teacher: Path | None,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Loads a checkpoint, of this run or of the one named by `--resume-path`, into the learner.

    Returns:
        The state of the meter, if the checkpoint has one, and notes for the run's first record.

    Raises:
        InputError: as `check_same_data` and `check_same_teacher`.
    """
    description = check_same_data(folder, settings, images, split)
    check_same_teacher(description.teacher_hash, description.settings.teaching.teacher, teacher, "a run")
    state = checkpoint.load_state(folder)
    learner.load(state, folder)
    if not folder.is_relative_to(settings.run_dir):
        learner.forget_best()
    if world.is_main:
        _restore_best(settings.run_dir, learner.best_step)
    before, now = state.get("world"), world.in_short()
    notes = [] if before in (None, now) else [f"previously on {before}: the same images, summed in another order"]
    if not description.data_hash and settings.data.dataset == "imagefolder":
        notes.append("the checkpoint does not say which images it was trained on, so only their number was compared")
    return state.get("meter"), notes


def _restore_best(run_dir: Path, best_step: int | None) -> None:
    """Points `best` to the best checkpoint: the process may have been killed after saving it and before pointing."""
    if best_step is None:
        return
    folder = checkpoint.folder_of(run_dir, best_step)
    if folder.is_dir() and checkpoint.pointed(run_dir, "best") != folder:
        checkpoint.point(run_dir, "best", folder)


def check_same_data(folder: Path, settings: ResolvedSettings, images: Images, split: Split) -> Description:
    """Compares the data with those of a checkpoint, of this run or of the one named by `--resume-path`.

    Returns:
        The checkpoint's description.

    Raises:
        InputError: the checkpoint was trained on other classes, on other images, or on another split of them.
    """
    _, before = checkpoint.load_model(folder)
    names = images.class_names
    if not same_names(before.class_names, names):
        raise InputError(
            f"the data must have the checkpoint's classes, got {_shortly(names)} where {folder} has "
            f"{_shortly(before.class_names)}; {differences(names, before.class_names) or 'their order differs'}; "
            "name the data it was trained on with --data-dir"
        )
    check_images(
        before.data_hash,
        images.contents,
        checkpoint.run_of(folder),
        rule="a run must resume with the images it started with",
        place=settings.data.here().data_dir,
        remedy=_other_images(folder, settings) + _held_out_before(before, settings, images),
    )
    if before.split_hash != split.digest():
        raise InputError(
            f"the data must be split as the checkpoint's were, got {len(split.train)} images to train on with "
            f"another hash than in {folder}; images were added or removed{_held_out_before(before, settings, images)}: "
            "restore them, or use --fresh"
        )
    return before


def _other_images(folder: Path, settings: Settings) -> str:
    """What to do if images differ from a checkpoint's."""
    if folder.is_relative_to(settings.run_dir):
        return "restore them, or use --fresh to rename the run and start again, or another --run-name"
    weights = shlex.join(["--init-weights", str(settings.run.resume_path)])
    return f"restore them, or start a new run from its weights: {weights} instead of --resume-path"


def _held_out_before(before: Description, settings: Settings, images: Images) -> str:
    """A hint for runs from before the validation images of a folder were used."""
    fraction = before.settings.data.val_fraction
    if fraction is None or settings.data.val_fraction is not None or images.held_out is None:
        return ""
    return f", or --val-fraction {fraction} was what it held out, beside a folder of validation images"


def _shortly(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
