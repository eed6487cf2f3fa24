"""The runs under a place on object storage, and copies of them as run folders."""

from dataclasses import replace
from pathlib import Path

from filelock import Timeout

from volo.cache import place_of_copies
from volo.errors import InputError
from volo.files import replaced
from volo.locks import LOOK_S, take
from volo.runs import stored
from volo.runs.listing import Run, read_run
from volo.runs.places import CONFIG, ENVIRONMENT, FAILURE, JOURNAL, LOCK, TABLE, is_empty
from volo.runs.records import FILE
from volo.settings.buckets import check_place
from volo.settings.paths import shown
from volo.storage.bucket import CHECK_S, Bucket, Stat
from volo.storage.lease import is_held

TOLD_BY = (CONFIG, ENVIRONMENT, FILE, FAILURE)  # the files that say how a run stands, beside the manifests


def stored_runs(url: str) -> tuple[Path, list[Run]]:
    """The runs at a place and below, and the folder that they are named in relation to.

    Raises:
        InputError: the storage cannot be read.
    """
    root = place_of_copies("listings", url)
    try:
        names = _names(url)
        for name in names:
            if name.rpartition("/")[2] == TABLE:
                _fetch(Bucket(url), name, root / name)  # tells how the trials of a sweep have ended
        return root, [_read(url, place, names, root) for place in _places(names)]
    except OSError as error:
        raise InputError(f"--output-dir must be a place that can be read, got {shown(url)}: {error.strerror}") from None


def _names(url: str) -> dict[str, Stat]:
    """What is kept at a place; a name that could lead out of a folder is none of ours."""
    return {name: stat for name, stat in Bucket(url, CHECK_S).names().items() if stored.is_of_run(name)}


def _places(names: dict[str, Stat]) -> list[str]:
    """The runs among the objects: empty for one at the place itself, otherwise with a slash at the end."""
    found = [name.removesuffix(CONFIG) for name in names if name.rpartition("/")[2] == CONFIG]
    return [place for place in found if f"{place}{ENVIRONMENT}" in names]


def _read(url: str, place: str, names: dict[str, Stat], root: Path) -> Run:
    """The state of a run, from the few files that tell it."""
    folder, bucket = root / place, Bucket(f"{url}/{place}".rstrip("/"))
    inside = {name.removeprefix(place): stat for name, stat in names.items() if name.startswith(place)}
    wanted = {*TOLD_BY, *stored.manifests(inside).values()}
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in wanted & inside.keys():
            path.unlink()
    for name in sorted(wanted & inside.keys()):
        _fetch(bucket, name, folder / name)
    run = read_run(folder)
    state = "running" if is_held(bucket) else run.state
    return replace(run, state=state, size=sum(stat.size for stat in inside.values()))


def _fetch(bucket: Bucket, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        bucket.fetch(name, partial)


def fetch_run(place: str, into: Path) -> Path:
    """Copies a run, a sweep, or the runs of several seeds into a folder, or makes an earlier copy there what it is now:
    all files, and the newest and the best checkpoint of every run.

    Returns:
        The folder of the copy.

    Raises:
        InputError: nothing of this kind there, or something else in the folder's place.
    """
    url = check_place(place, "--fetch")
    folder = into / url.rpartition("/")[2]
    try:
        names = Bucket(url, CHECK_S).names()
        if not (CONFIG in names or _places(names) or JOURNAL in names):
            raise InputError(
                f"--fetch must name a run or a sweep, got {shown(url)}, which holds none; correct the place"
            )
        folder.mkdir(parents=True, exist_ok=True)
        lock = take(folder / LOCK, LOOK_S, "set --output-dir to another disk")
        try:
            if not (is_empty(folder) or stored.is_untouched_copy(url, folder)):
                raise InputError(
                    f"{folder} must be an earlier copy of this run in which nobody has trained, empty, or not exist, "
                    "got other files; set another --output-dir"
                )
            stored.bring_files(Bucket(url), names, folder)
            for run in _places(names):
                inside = {name.removeprefix(run): stat for name, stat in names.items() if name.startswith(run)}
                stored.bring_checkpoints(Bucket(f"{url}/{run}".rstrip("/")), inside, folder / run)
        finally:
            lock.release()
    except Timeout:
        raise InputError(f"{folder} is being trained by another process; set another --output-dir") from None
    except OSError as error:
        raise InputError(f"{shown(url)} must be readable, got {error.filename} ({error.strerror}); check it") from None
    return folder
