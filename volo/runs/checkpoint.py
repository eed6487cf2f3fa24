"""The only writer and reader of training state.

    <run>/checkpoints/step_00001200/{model.safetensors, training_state.pt, manifest.json}
    <run>/best  <run>/last        one-line text files that name a checkpoint, replaced by rename

A checkpoint exists if its manifest exists and matches: the manifest is written last, into the checkpoint's own folder,
which is synced and renamed. Anything else there is skipped. Reading a checkpoint never runs code.
A model can also be stored alone in a single file: volo/runs/model_file.py.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from volo.errors import InputError, TrainingError
from volo.files import (
    partial_of,
    read_edited,
    read_json,
    remove,
    remove_abandoned,
    replace_synced,
    sync,
    sync_all,
    write_synced,
)
from volo.model.tensor_files import load_values
from volo.runs.copies import local_copy
from volo.runs.model_file import PT_SUFFIXES, SCHEMA_VERSION, Description, read_model_file
from volo.runs.places import BEST, CHECKPOINTS, checkpoints_of, step_of

MODEL, STATE, MANIFEST = "model.safetensors", "training_state.pt", "manifest.json"
Signature = tuple[tuple[str, int, int], ...]
_known_intact: dict[Path, Signature] = {}  # checkpoints that this process has written or verified


class DamagedCheckpoint(InputError):
    """A checkpoint whose manifest is missing or does not match; the message names the file."""


@dataclass(frozen=True)
class Manifest:
    """`total_steps` is the length of the whole schedule; `files` holds each file's size and sha256.

    Its text also holds a sha256 of its own content, so that a flipped byte in the manifest is detected too.
    """

    schema_version: int
    step: int
    total_steps: int
    files: dict[str, dict[str, Any]]

    def to_text(self) -> str:
        values = asdict(self)
        return json.dumps({**values, "sha256": _digest(values)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """As `of`, and OSError."""
        return cls.of(read_json(path), str(path))

    @classmethod
    def of(cls, values: dict[str, Any], place: str) -> "Manifest":
        """The manifest that a file at `place` holds.

        Raises:
            InputError: a later version wrote it, whatever else it holds.
            ValueError, TypeError, AttributeError, KeyError: it is damaged.
        """
        if values.pop("sha256") != _digest(values):
            raise ValueError("its sha256 does not match its content")
        if values["schema_version"] > SCHEMA_VERSION:
            raise InputError(
                f"{place} has schema_version {values['schema_version']}, this version reads up to {SCHEMA_VERSION}; "
                "update the project"
            )
        return cls(**values)


def save(
    run_dir: Path, weights: dict[str, Tensor], description: Description, state: dict[str, Any], total_steps: int
) -> Path:
    """Commits a checkpoint and points `last` to it.

    Args:
        weights: The weights to use: the EMA if it is on.
        state: Tensors and plain values, everything that training needs to resume.

    Returns:
        The checkpoint's folder.

    Raises:
        TrainingError: what could not be written, and why; the checkpoints before it are intact.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    model = safetensors.torch.save(contiguous, description.to_metadata())
    files: dict[str, bytes | memoryview] = {MODEL: model, STATE: buffer.getbuffer()}
    folder = folder_of(run_dir, description.step)
    with writing(f"the checkpoint of step {description.step}"):
        _commit(folder, files, description.step, total_steps)
        _known_intact[folder] = _signature(folder)
    point(run_dir, "last", folder)
    return folder


def adopt(folder: Path, fill: Callable[[Path], None]) -> None:
    """Makes a checkpoint of the files that `fill` puts into an empty folder, as they were saved elsewhere.

    Raises:
        DamagedCheckpoint: they do not match the manifest among them. Nothing has changed.
    """
    partial = partial_of(folder)
    remove(partial)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        verify(partial)
        sync_all(partial)
        _give_name(partial, folder)
    finally:
        remove(partial)
    sync(folder.parent)


def folder_of(run_dir: Path, step: int) -> Path:
    return run_dir / CHECKPOINTS / f"step_{step:08d}"


def run_of(path: Path) -> Path | None:
    """The run folder of a checkpoint's folder; None for a model file, which may be alone."""
    return path.parent.parent if path.is_dir() else None


def point(run_dir: Path, name: str, checkpoint: Path) -> None:
    """Points `best` or `last` to a checkpoint of the run. Raises TrainingError if it cannot be written."""
    with writing(f"{run_dir / name}"):
        replace_synced(run_dir / name, f"{checkpoint.relative_to(run_dir)}\n".encode())


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns a disk error while writing `what` during training into a TrainingError."""
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the disk"
        raise TrainingError(
            f"{what} could not be written: {where} ({error.strerror or error}); earlier "
            "checkpoints are intact, and the same command resumes once the problem is fixed"
        ) from error


def pointed(run_dir: Path, name: str) -> Path | None:
    """The checkpoint of the run that `best` or `last` names; None if there is no such file or it names none."""
    try:
        named = Path(read_edited(run_dir / name).strip())
    except (OSError, UnicodeDecodeError):
        return None
    is_one = str(named.parent) == CHECKPOINTS and step_of(named) is not None
    return run_dir / named if is_one else None


def prune(run_dir: Path, keep: int) -> None:
    """Removes checkpoints that are older than the newest `keep` intact ones, except the best one, and partial files of
    ended processes. Folders that are named otherwise, such as a user's own copies, stay."""
    kept = {pointed(run_dir, "best"), pointed(run_dir, "last")}
    num_intact = 0
    for folder in checkpoints_of(run_dir):
        if num_intact < keep:
            num_intact += _is_intact(folder)
        elif folder not in kept:
            _known_intact.pop(folder, None)
            shutil.rmtree(folder, ignore_errors=True)
    remove_abandoned(run_dir / CHECKPOINTS)
    remove_abandoned(run_dir)


def newest(run_dir: Path) -> Path | None:
    """The newest intact checkpoint; damaged ones are skipped with a warning."""
    for folder in checkpoints_of(run_dir):
        try:
            verify(folder)
            return folder
        except DamagedCheckpoint as error:
            warnings.warn(f"skipped a damaged checkpoint: {error}", stacklevel=2)
    return None


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint, after checking the size and sha256 of every file.

    Raises:
        DamagedCheckpoint: a file is missing or does not match.
        InputError: a later version wrote the checkpoint.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.read(path)
        for name, expected in manifest.files.items():
            found = _fingerprint((folder / name).read_bytes())
            if found != expected:
                raise DamagedCheckpoint(f"{folder / name} must match its manifest, got {found} for {expected}")
    except OSError as error:
        raise DamagedCheckpoint(f"{error.filename} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise DamagedCheckpoint(f"{path} must be a complete manifest of this project ({error})") from None
    return manifest


def find(path: str | os.PathLike[str], *, prefer: str = "best") -> Path:
    """The checkpoint folder or single model file that a user's path refers to.

    Args:
        path: A run folder, its `best` or `last`, a checkpoint folder, or a model file; also on object storage, from
            where it is fetched.
        prefer: Which checkpoint of a run folder: best (if it is intact, otherwise the newest) or last (the newest
            intact one). A damaged best is skipped with a warning.

    Raises:
        InputError: nothing there, or nothing of this project; a damaged checkpoint that the path names directly.
    """
    path = local_copy(path, "a checkpoint")
    if not path.exists():
        raise InputError(f"a checkpoint must exist, got no {path}; name a run folder, best or last, or a model file")
    if path.is_file() and path.name in ("best", "last"):
        target = pointed(path.parent, path.name)
        if target is None or not target.is_dir():
            raise InputError(f"{path} must name a checkpoint, got {target}; name one of {path.parent / 'checkpoints'}")
        verify(target)
        return target
    if path.is_file() or (path / MANIFEST).exists():
        return path
    target = (prefer == "best" and _best(path)) or newest(path)
    if not target:
        raise InputError(f"{path} holds no checkpoint that can be used; name a run folder or a checkpoint folder")
    return target


def load_model(path: Path) -> tuple[dict[str, Tensor], Description]:
    """Weights (on the CPU) and description, from a checkpoint folder or a single model file.

    Raises:
        InputError: a damaged, truncated or foreign file.
    """
    if path.is_dir():
        verify(path)
        path = path / MODEL
    return read_model_file(path)


def export_pt(source: Path, target: Path) -> Path:
    """Writes the model of a checkpoint folder or a single model file as a `.pt` (format: volo/runs/model_file.py).

    Returns:
        The file, which `--checkpoint` and `volo.load` accept.

    Raises:
        InputError: a damaged or foreign source, a target that does not end in .pt or cannot be written.
    """
    if target.suffix not in PT_SUFFIXES:
        raise InputError(f"an exported model must end in {' or '.join(PT_SUFFIXES)}, got {target}")
    weights, description = load_model(source)
    buffer = io.BytesIO()
    torch.save({**description.to_plain(), "model": weights}, buffer)
    try:
        replace_synced(target, buffer.getvalue())
    except OSError as error:
        raise InputError(f"the exported model must be writable, got {target} ({error.strerror})") from None
    return target


def load_state(folder: Path) -> dict[str, Any]:
    """Training state of a checkpoint folder, on the CPU. Raises InputError for another file or one that holds code."""
    verify(folder)
    try:
        return load_values(folder / STATE)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{folder / STATE} must hold tensors and plain values only ({error})") from None


def _commit(folder: Path, files: Mapping[str, bytes | memoryview], step: int, total_steps: int) -> None:
    """Writes all files into a partial folder, the manifest last, and then renames the folder."""
    partial = partial_of(folder)
    remove(partial)
    partial.mkdir(parents=True)
    try:
        for name, content in files.items():
            write_synced(partial / name, content)
        fingerprints = {name: _fingerprint(content) for name, content in files.items()}
        manifest = Manifest(SCHEMA_VERSION, step, total_steps, fingerprints)
        write_synced(partial / MANIFEST, manifest.to_text().encode())
        sync(partial)
        _give_name(partial, folder)
    finally:
        remove(partial)
    sync(folder.parent)


def _give_name(partial: Path, folder: Path) -> None:
    """Renames the folder. An existing one is damaged or from another attempt at the same step, and is removed first."""
    before = partial_of(folder.with_name(f"{folder.name}-before"))
    remove(before)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(before)
    partial.rename(folder)
    remove(before)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _fingerprint(content: bytes | memoryview) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _best(run_dir: Path) -> Path | None:
    """The checkpoint that `best` names; None if it is missing or damaged."""
    best, path = pointed(run_dir, BEST), run_dir / BEST
    if best is None and os.path.lexists(path):
        warnings.warn(f"skipped {path}, which must name a checkpoint of the run and does not", stacklevel=3)
    try:
        if best:
            verify(best)
        return best
    except DamagedCheckpoint as error:
        warnings.warn(f"skipped the checkpoint that {path} names: {error}", stacklevel=3)
        return None


def _is_intact(folder: Path) -> bool:
    """Whether a checkpoint holds. Its files are read only if this process does not know them yet."""
    try:
        signature = _signature(folder)
        if _known_intact.get(folder) != signature:
            verify(folder)
            _known_intact[folder] = signature
        return True
    except (OSError, InputError):
        return False


def _signature(folder: Path) -> Signature:
    """What changes when a file of a checkpoint is written to."""
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)
