"""Disk space for the checkpoints of a run that is about to start or resume."""

from pathlib import Path

import torch

from volo.console import format_bytes
from volo.data.folders.layout import find_layout
from volo.data.folders.listing import find_folders
from volo.data.shapes import CLASS_NAMES
from volo.errors import InputError
from volo.files import free_bytes
from volo.model.build import model_for
from volo.runs.places import checkpoints_of
from volo.settings.config import Settings
from volo.settings.data import ResolvedData

COPIES = 4  # in a checkpoint: the weights to use, the raw ones, and AdamW's two moments
NUM_CLASSES = {"cifar100": 100, "cifar10": 10, "shapes": len(CLASS_NAMES)}
UNKNOWN_CLASSES = 1000  # of a folder that does not exist yet; the head is a small part of a model


def checkpoint_bytes(settings: Settings) -> int:
    """The approximate size of one checkpoint, from the number of parameters; allocates nothing."""
    data = settings.resolved().data
    with torch.device("meta"):
        model = model_for(settings, _num_classes(data))
    return COPIES * sum(tensor.nbytes for tensor in model.state_dict().values())


def _num_classes(data: ResolvedData) -> int:
    if known := NUM_CLASSES.get(data.dataset):
        return known
    try:
        return len(find_folders(find_layout(Path(data.here().folder)).train)[0]) or UNKNOWN_CLASSES
    except InputError:
        return UNKNOWN_CLASSES


def num_checkpoints(settings: Settings) -> int:
    """Checkpoints on disk at the same time: those kept, the best one, if any, and the one being written."""
    return settings.run.keep_checkpoints + settings.data.validates + 1


def needed_bytes(settings: Settings, is_fresh: bool = False) -> int:
    """Space for the checkpoints still to come, which replace the run's existing ones unless it starts afresh."""
    folders = [] if is_fresh else checkpoints_of(settings.run_dir)
    there = sum(file.stat().st_size for folder in folders for file in folder.glob("*") if file.is_file())
    return max(0, num_checkpoints(settings) * checkpoint_bytes(settings) - there)


def check_disk_room(settings: Settings, is_fresh: bool = False) -> None:
    """Raises InputError if the disk has no room for the checkpoints to come."""
    needed, free = needed_bytes(settings, is_fresh), free_bytes(settings.run_dir)
    if needed > free:
        raise InputError(
            f"the disk must have room for the checkpoints to come, got {format_bytes(free)} free at "
            f"{settings.run_dir} for {num_checkpoints(settings)} of {format_bytes(checkpoint_bytes(settings))}, which "
            f"need {format_bytes(needed)} more; free some space, lower --keep-checkpoints, or use another --output-dir"
        )
