"""Copies of runs and model files on object storage, for whoever reads them: one per machine and place, in the cache."""

import contextlib
import os
from pathlib import Path

from volo.cache import OTHER_PLACE, cache_dir, place_of_copies
from volo.errors import InputError
from volo.files import replaced
from volo.locks import waited_for
from volo.runs.places import BEST, CHECKPOINTS, LAST, STEP
from volo.settings.buckets import check_place, is_in_bucket
from volo.settings.paths import path_to_read, shown
from volo.storage.bucket import CHECK_S, Bucket

COPIES = "copies"  # the folder in the cache
MODEL_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".npz", ".bin")


def local_copy(place: str | os.PathLike[str], name: str) -> Path:
    """The path of what a user names: the path itself, or a copy of what lies on object storage, as it is there now.

    Args:
        place: A path, or the place of a run, its `best` or `last`, one of its checkpoints, or a model file.
        name: The setting or flag that it was given to.

    Raises:
        InputError: neither, nothing there, or the storage cannot be read.
    """
    if not isinstance(place, str):
        return path_to_read(place, name)
    url = check_place(place, name)
    if not is_in_bucket(url):
        return path_to_read(place, name)
    run, rest = _divided(url)
    try:
        return _file(url) if url.endswith(MODEL_SUFFIXES) and not rest else _run(run, rest, name)
    except OSError as error:
        raise InputError(f"{name} must be a place that can be read, got {shown(url)}: {error.strerror}") from None


def place_of(path: Path) -> str:
    """How people know a checkpoint: by its place on object storage if it is in a copy that `local_copy` made of a run,
    otherwise by its path."""
    from volo.runs import stored  # as below

    run_dir = path.parent.parent
    if not run_dir.is_relative_to(cache_dir() / COPIES) or not (url := stored.copy_of(run_dir)):
        return str(path)
    return f"{url}/{path.relative_to(run_dir).as_posix()}"


def run_place(place: str) -> str:
    """The place on object storage of the run that `place`, in it, belongs to."""
    return _divided(place.rstrip("/"))[0]


def _divided(url: str) -> tuple[str, str]:
    """The run's place, and what of it is named: nothing, best, last, or checkpoints/step_00001200."""
    above, _, last = url.rpartition("/")
    if last in (BEST, LAST):
        return above, last
    run, _, folder = above.rpartition("/")
    return (run, f"{folder}/{last}") if folder == CHECKPOINTS and STEP.fullmatch(last) else (url, "")


def _run(url: str, rest: str, name: str) -> Path:
    from volo.runs import stored  # which finds checkpoints, as who asks for this does

    folder = place_of_copies(COPIES, url) / url.rpartition("/")[2]
    bucket = Bucket(url)
    with _held(folder, url):
        names = Bucket(url, CHECK_S).names()
        if not names:
            raise InputError(f"{name} must name a run or a model, got nothing at {shown(url)}; correct the place")
        stored.bring_run(bucket, folder)
        asked = f"{rest}/{stored.MANIFEST}"
        if asked in names:
            stored.bring_checkpoint(bucket, asked, folder)
    return folder / rest


def _file(url: str) -> Path:
    above, _, name = url.rpartition("/")
    bucket = Bucket(above)
    try:
        stat = Bucket(above, CHECK_S).stat(name)
    except FileNotFoundError:
        raise InputError(f"a model must exist, got nothing at {shown(url)}; correct the place") from None
    path = place_of_copies(COPIES, f"{url} {stat.etag}") / name
    with _held(path, url):
        if not path.exists():
            with replaced(path) as partial:
                bucket.fetch(name, partial)
    return path


def _held(path: Path, url: str) -> contextlib.AbstractContextManager[None]:
    path.parent.mkdir(parents=True, exist_ok=True)

    def progress() -> object:
        with contextlib.suppress(OSError):
            return [(file.name, file.stat().st_size) for file in path.parent.rglob("*")]
        return None

    return waited_for(path.with_name(f"{path.name}.lock"), f"fetching {url}", OTHER_PLACE, progress)
