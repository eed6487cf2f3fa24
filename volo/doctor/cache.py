"""Checks, for `volo doctor`, a node's cache: room for the images that a training will decode, and damage."""

from volo.data.archives.cifar import CIFAR10, CIFAR100
from volo.data.archives.fetch import look, mirrored
from volo.data.datasets import reads_files, wanted_images
from volo.data.decoded.cache import MORE_ROOM, Room, cache_dir, flaws, room
from volo.doctor.findings import Finding, failure, ok, warning
from volo.files import free_bytes
from volo.settings.data import VAL_FRACTION, ResolvedData

ARCHIVES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
NUM_IMAGES = 50_000  # to train on, in each of the archives
TIGHT = 2  # this many times the needed space is plenty


def cache_room(data: ResolvedData) -> Room:
    """The room that this machine's cache still needs. Raises InputError for data that training would refuse.

    Args:
        data: Resolved.
    """
    if is_here(data):
        return room(wanted_images(data))
    num_val = int(NUM_IMAGES * (VAL_FRACTION if data.val_fraction is None else data.val_fraction))
    num_images = num_val + min(data.train_images or NUM_IMAGES, NUM_IMAGES - num_val)
    return Room(cache_dir(), num_images, num_images * data.image_size**2 * data.in_chans, free_bytes(cache_dir()))


def cache_flaws(data: ResolvedData) -> list[str]:
    """What is damaged in this machine's cache, all of which is read. Raises InputError as `cache_room`."""
    return flaws(wanted_images(data)) if is_here(data) else []


def store_of(data: ResolvedData) -> str:
    """What the training images of an image folder are read from, in words; empty for others. Raises InputError as
    `cache_room`."""
    if data.dataset != "imagefolder":
        return ""
    if not reads_files(data):
        return "training images are decoded once, for all epochs"
    why = " (decoded, they would not fit)" if data.image_store == "auto" else ""
    return f"training images are read from their files in every epoch{why}"


def is_here(data: ResolvedData) -> bool:
    """Whether there are images without a download."""
    return data.dataset not in ARCHIVES or bool(look(mirrored(ARCHIVES[data.dataset]), data.folder))


def judged(found: Room) -> Finding:
    if not found.needed:
        return ok("cache", f"all images are decoded in {found.folder}")
    if found.needed > found.free:
        return failure("cache", found.found(), MORE_ROOM)
    is_tight = TIGHT * found.needed > found.free
    return warning("cache", found.found(), MORE_ROOM) if is_tight else ok("cache", found.found())
