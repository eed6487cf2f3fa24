"""A run on object storage: what is called how there, and how it is brought to this machine.

    <run>/checkpoints/step_00001200/<version>/{model.safetensors, training_state.pt}
    <run>/checkpoints/step_00001200/manifest.json    made last, only if there is none; <version> is of its content
    <run>/best  <run>/last  <run>/metrics.jsonl ...  as in a run's folder
    <run>/lease.json                                 who may write there now

A checkpoint exists there if its manifest does; its files are checked against it when they are brought here.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from volo.errors import InputError
from volo.files import SUFFIX, read_json, remove, replace_synced, replaced, write_synced
from volo.runs import checkpoint
from volo.runs.checkpoint import MANIFEST, DamagedCheckpoint, Manifest
from volo.runs.places import BEST, BROUGHT, CHECKPOINTS, LAST, step_of
from volo.storage.bucket import Bucket, Stat
from volo.storage.lease import LEASE

Seen = tuple[int, int]  # size and time of a file
FILES = {checkpoint.MODEL, checkpoint.STATE}
HANG = "hang"  # the folder of what is kept for a person to look at, on the machine where it was written


def version_of(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:16]


def manifests(names: dict[str, Stat]) -> dict[int, str]:
    """The names of the manifests by step, the newest first."""
    found = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if file == MANIFEST and folder.startswith(f"{CHECKPOINTS}/") and (step := step_of(Path(folder))) is not None:
            found[step] = name
    return dict(sorted(found.items(), reverse=True))


def newest_manifest(bucket: Bucket, names: dict[str, Stat]) -> Manifest | None:
    """The newest manifest among the objects of a run; None if there is none, or it is damaged."""
    for name in manifests(names).values():
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            return Manifest.of(json.loads(bucket.read(name)[0]), f"{bucket.url}/{name}")
        break
    return None


def is_of_run(name: str) -> bool:
    """Whether an object belongs to a run, a sweep or several seeds: it is no mark of a moment, and no lease."""
    parts = name.split("/")
    return parts[-1] != LEASE and HANG not in parts[:-1] and not any(part.startswith(".") for part in parts)


def is_loose(name: str) -> bool:
    """Whether an object belongs to a run and is no checkpoint's."""
    return is_of_run(name) and CHECKPOINTS not in name.split("/")[:-1]


def loose_files(run_dir: Path) -> dict[str, Path]:
    """The files of a run's folder that are no checkpoint's and not for this machine alone, by name."""
    found = {}
    for folder, _, files in os.walk(run_dir):
        for path in (Path(folder, file) for file in files):
            name = path.relative_to(run_dir).as_posix()
            if is_loose(name) and not name.endswith(SUFFIX):
                found[name] = path
    return dict(sorted(found.items()))


def bring_run(bucket: Bucket, run_dir: Path) -> list[Path]:
    """Makes a run's folder what is there: its files, its newest intact checkpoint and its best one. What is not there
    goes. Returns the files.

    Warns about damaged checkpoints, which are skipped.
    """
    names = bucket.names()
    brought = bring_files(bucket, names, run_dir)
    bring_checkpoints(bucket, names, run_dir)
    return brought


def bring_checkpoints(bucket: Bucket, names: dict[str, Stat], run_dir: Path) -> None:
    """Makes the checkpoints of a run's folder, whose files are here, the newest intact one there and its best one."""
    there = manifests(names)
    for folder in (run_dir / CHECKPOINTS).glob("*"):
        if f"{CHECKPOINTS}/{folder.name}/{MANIFEST}" not in there.values():
            remove(folder)
    for name in there.values():
        if _bring_if_intact(bucket, name, run_dir):
            break
    best = checkpoint.pointed(run_dir, BEST)
    if best is not None and (name := f"{CHECKPOINTS}/{best.name}/{MANIFEST}") in there.values():
        _bring_if_intact(bucket, name, run_dir)


def bring_files(bucket: Bucket, names: dict[str, Stat], run_dir: Path) -> list[Path]:
    """Makes the files of a run's folder, other than checkpoints, what they are there. Returns them."""
    wanted = {name: run_dir / name for name in names if is_loose(name)}
    for name, path in loose_files(run_dir).items():
        if name not in wanted:
            remove(path)
    before, now = _brought_before(bucket.url, run_dir), {}
    for name, path in wanted.items():
        etag = names[name].etag
        if before.get(name) != [etag, *seen(path)]:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as partial:
                bucket.fetch(name, partial)
        now[name] = [etag, *seen(path)]
    run_dir.mkdir(parents=True, exist_ok=True)
    replace_synced(run_dir / BROUGHT, json.dumps({"of": bucket.url, "files": now}))
    return [*wanted.values()]


def seen(path: Path) -> Seen:
    """What changes when a file is written to; nothing of a file that is not there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def is_untouched_copy(url: str, run_dir: Path) -> bool:
    """Whether a folder holds what was brought there from a place, and nobody has trained in it since, which would have
    changed its records."""
    before = _brought_before(url, run_dir)
    return bool(before) and all(before[name][1:] == [*seen(run_dir / name)] for name in before)


def copy_of(run_dir: Path) -> str:
    """The place on object storage from which a run was brought to a folder; empty if that is not known."""
    try:
        return str(read_json(run_dir / BROUGHT)["of"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _brought_before(url: str, run_dir: Path) -> dict[str, Any]:
    """What was brought from this place: version, size and time of each file."""
    try:
        found = read_json(run_dir / BROUGHT)
        return dict(found["files"]) if found["of"] == url else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def bring_checkpoint(bucket: Bucket, name: str, run_dir: Path) -> Path:
    """The folder of a checkpoint that a manifest names, fetched unless the same one is here.

    Raises:
        DamagedCheckpoint: it does not match its manifest.
    """
    there = name.removesuffix(f"/{MANIFEST}")
    folder = run_dir / there
    try:
        text, _ = bucket.read(name)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{error.filename} is gone") from None
    if (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() == text:
        with contextlib.suppress(DamagedCheckpoint):
            checkpoint.verify(folder)
            return folder

    def fill(partial: Path) -> None:
        write_synced(partial / MANIFEST, text)
        for file in sorted(_files_in(partial / MANIFEST, f"{bucket.url}/{name}")):
            try:
                bucket.fetch(f"{there}/{version_of(text)}/{file}", partial / file)
            except FileNotFoundError as error:
                raise DamagedCheckpoint(f"{error.filename} is missing") from None

    checkpoint.adopt(folder, fill)
    return folder


def _files_in(path: Path, shown: str) -> set[str]:
    """The names of a checkpoint's files; what the storage says cannot have others written."""
    try:
        files = {*Manifest.read(path).files}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{shown} is of another version: {error}") from None
        raise DamagedCheckpoint(f"{shown} must be a complete manifest of this project ({error})") from None
    if not files <= FILES:
        raise DamagedCheckpoint(f"{shown} must name {' and '.join(sorted(FILES))}, got {sorted(files)}")
    return files


def _bring_if_intact(bucket: Bucket, name: str, run_dir: Path) -> bool:
    try:
        bring_checkpoint(bucket, name, run_dir)
        return True
    except DamagedCheckpoint as error:
        remove(run_dir / name.removesuffix(f"/{MANIFEST}"))
        warnings.warn(f"skipped a damaged checkpoint of {bucket.url}: {error}", stacklevel=3)
        return False


def take_checkpoint(bucket: Bucket, folder: Path) -> None:
    """Takes a checkpoint's files there, but not yet the manifest that makes them one."""
    version = version_of((folder / MANIFEST).read_bytes())
    for file in sorted(FILES):
        bucket.write(f"{CHECKPOINTS}/{folder.name}/{version}/{file}", folder / file)


def make_valid(bucket: Bucket, folder: Path) -> None:
    """Makes a checkpoint there of the files that were taken there. One of the same step, damaged or from another
    attempt, is replaced."""
    name, text = f"{CHECKPOINTS}/{folder.name}/{MANIFEST}", (folder / MANIFEST).read_bytes()
    if not bucket.create(name, text):
        _put(bucket, name, text)


def point(bucket: Bucket, run_dir: Path, name: str) -> None:
    """Makes `best` or `last` there what it is here."""
    if (run_dir / name).exists():
        _put(bucket, name, (run_dir / name).read_bytes())


def _put(bucket: Bucket, name: str, content: bytes) -> None:
    """Creates an object, or compares and swaps it."""
    while True:
        try:
            found, etag = bucket.read(name)
            if found == content or bucket.swap(name, content, etag):
                return
        except FileNotFoundError:
            if bucket.create(name, content):
                return


def prune(bucket: Bucket, run_dir: Path, keep: int) -> None:
    """Deletes there what `checkpoint.prune` removes here, manifests first, and files that no manifest made valid."""
    names = bucket.names(CHECKPOINTS)
    there = manifests(names)
    pointed = {checkpoint.pointed(run_dir, kind) for kind in (BEST, LAST)}
    kept = {name.split("/")[1] for name in [*there.values()][:keep]} | {folder.name for folder in pointed if folder}
    valid = {}
    for name in there.values():
        if (step := name.split("/")[1]) in kept:
            here = run_dir / name  # the same, if it is here
            valid[step] = {MANIFEST, version_of(here.read_bytes() if here.exists() else bucket.read(name)[0])}
    gone = []
    for name in names:
        _, step, *inner = name.split("/")
        if step_of(Path(step)) is not None and inner and inner[0] not in valid.get(step, ()):
            gone.append(name)
    delete(bucket, gone)


def delete(bucket: Bucket, names: Iterable[str]) -> None:
    """Deletes objects of a run, manifests first."""
    bucket.delete(sorted(names, key=lambda name: not name.endswith(MANIFEST)))


def set_aside(bucket: Bucket) -> str:
    """Renames a run there to the first free of `<name>.1`, `<name>.2` ... Returns its new place.

    Objects have no names that could change: they are copied, manifests last, and then deleted, manifests first.
    """
    number = 1
    while Bucket(f"{bucket.url}.{number}").names():
        number += 1
    name = bucket.url.rpartition("/")[2]
    above = Bucket(bucket.url.rpartition("/")[0])
    names = [found for found in bucket.names() if is_of_run(found)]
    copy(above, names, name, f"{name}.{number}")
    delete(bucket, names)
    return f"{bucket.url}.{number}"


def copy(above: Bucket, names: Iterable[str], place: str, to: str) -> None:
    """Copies objects from one place below `above` to another, manifests last."""
    for name in sorted(names, key=lambda one: one.endswith(MANIFEST)):
        above.copy(f"{place}/{name}", f"{to}/{name}")
