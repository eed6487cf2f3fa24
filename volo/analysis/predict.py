"""Predictions for unlabeled images as a table: in pieces, so that finished ones survive a crash.

    predictions.csv          path, class_1, prob_1, class_2, ...: one row per image, sorted by path; renamed last
    predictions.errors.csv   path, reason: the files that could not be read
    predictions.source.json  what the table was made from: checkpoint and images, with their hashes
    predictions.parts/       while running: the same description, and finished pieces; deleted at the end

Pieces may hold different images after a restart with another batch size; only missing images are computed.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from filelock import Timeout

from volo.analysis.classifier import TOP_K
from volo.analysis.explaining.images import Result, digest_of, list_images, predictions
from volo.analysis.subject import Subject, load_subject
from volo.console import Progress
from volo.data.folders.listing import ImageFile
from volo.data.folders.passed_over import say_passed_over
from volo.errors import InputError, first_of, writing
from volo.files import remove, replaced
from volo.locks import take
from volo.runs import checkpoint
from volo.tables import TableWriter, read_table
from volo.threads import set_threads

BATCHES_PER_PIECE = 4
NUM_NAMED = 3  # unreadable files named on the terminal


class Chunk(NamedTuple):
    """Images from number `start` on, by absolute path."""

    start: int
    paths: list[str]


class Piece(NamedTuple):
    """Results of the images from number `start` on."""

    start: int
    results: list[Result]


Count = Callable[[int], None]
Compute = Callable[[Subject, list[Chunk], Count], Iterable[Piece]]


@dataclass(frozen=True)
class Job:
    """What a table is made from. Only the hashes are compared; the rest is for people."""

    checkpoint: str
    model_sha256: str
    input: list[str]
    input_sha256: str
    num_images: int
    temperature: float = 1.0

    @classmethod
    def of(cls, path: Path, inputs: Sequence[str], files: Sequence[ImageFile], temperature: float) -> "Job":
        model = path / checkpoint.MODEL if path.is_dir() else path
        with open(model, "rb") as file:
            model_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(str(path), model_sha256, list(inputs), digest_of(files), len(files), temperature)

    def check_same(self, before: "Job", place: Path) -> None:
        """Raises InputError where `before`, found at `place`, is of another checkpoint, other images or a
        temperature of its own."""
        changes = []
        if before.model_sha256 != self.model_sha256:
            changes.append(f"  checkpoint: {before.checkpoint} before, {self.checkpoint} now, with other weights")
        if before.input_sha256 != self.input_sha256:
            old, new = (f"{job.num_images:,} images in {', '.join(job.input)}" for job in (before, self))
            changes.append(f"  images: {old} before, {new} now, not the same files")
        if before.temperature != self.temperature:
            changes.append(f"  temperature: {before.temperature:g} before, {self.temperature:g} now")
        if changes:
            raise InputError(
                f"a table must be of one checkpoint and the same images throughout, got others for {place}:\n"
                + "\n".join(changes)
                + f"\nchoose another --output, or delete {place}"
            )


def predict(
    path: Path, inputs: Sequence[str], output: Path, *, batch_size: int, compute: Compute, temperature: float = 1.0
) -> None:
    """Writes the table of predictions, resuming an interrupted run.

    Args:
        path: A checkpoint folder or a lone model file.
        inputs: Files and folders.
        output: The table, ending in .csv, in an existing folder.
        batch_size: Images computed at once.
        temperature: By which logits are divided.
        compute: Turns chunks into pieces, in any order, with the available workers, and counts the images meanwhile.

    Raises:
        InputError: a checkpoint, images or output that cannot be used, or an output of something else.
        InferenceError: lost workers, or results that cannot be written; finished pieces are kept.
    """
    subject = replace(load_subject(path), temperature=temperature)
    listing = list_images(inputs)
    files = listing.files
    say_passed_over(inputs[0] if len(inputs) == 1 else f"{len(inputs)} inputs", len(files), listing.passed_over)
    job = Job.of(path, inputs, files, temperature)
    outputs = Outputs(output)
    with outputs.locked():
        if outputs.is_finished(job):
            print(f"this table is finished, {len(files):,} images; choose another --output, or delete it to start over")
            outputs.say_result()
            return
        finished = outputs.begin(job)
        chunks = _missing(finished, files, batch_size * BATCHES_PER_PIECE)
        done = len(files) - sum(len(chunk.paths) for chunk in chunks)
        if done:
            print(f"resuming: {done:,} of {len(files):,} images are done", flush=True)
        with Progress("predicting", len(files), "images") as progress:
            progress.begin(done, len(files))

            def count(more: int) -> None:
                nonlocal done
                progress.update(done := done + more)

            for piece in compute(subject, chunks, count):
                outputs.keep(piece)
        outputs.finish(job, files, subject.description.class_names)
        outputs.say_result()


def predict_here(
    path: Path, inputs: Sequence[str], output: Path, *, batch_size: int, device: str, temperature: float = 1.0
) -> None:
    """As `predict`, in this process, on a GPU if there is one and `device` allows it."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise InputError("--device cuda needs a GPU, got none on this machine; use --device cpu")
    used = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
    set_threads(1)

    def compute(subject: Subject, chunks: list[Chunk], count: Count) -> Iterator[Piece]:
        return pieces(subject, chunks, used, batch_size, count)

    predict(path, inputs, output, batch_size=batch_size, compute=compute, temperature=temperature)


def pieces(
    subject: Subject, chunks: Sequence[Chunk], device: torch.device, batch_size: int, count: Count = lambda more: None
) -> Iterator[Piece]:
    """A piece for each chunk, in order; `count` gets the images of each batch. The same processes read for all.

    Raises:
        InputError: as `predictions`.
    """
    results = predictions(subject, [path for chunk in chunks for path in chunk.paths], device, batch_size)
    for chunk in chunks:
        piece = Piece(chunk.start, [])
        while part := list(itertools.islice(results, min(batch_size, len(chunk.paths) - len(piece.results)))):
            piece.results.extend(part)
            count(len(part))
        yield piece


class Outputs:
    """The files of one table; see the docstring of this module."""

    def __init__(self, output: Path):
        self.table, self.table_is_whole = output, False
        self.errors, self.description, self.parts = (
            output.with_suffix(suffix) for suffix in (".errors.csv", ".source.json", ".parts")
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the table for this process. Raises InputError if another process has it or it cannot be written."""
        try:
            self.parts.mkdir(exist_ok=True)
            lock = take(self.parts / ".lock", 0, "set --output to a file on another disk")
        except Timeout:
            raise InputError(f"{self.table} is being written by another process; wait for it or use --output") from None
        except OSError as error:
            raise InputError(
                f"--output must lie in a folder that can be written, got {self.table} ({error.strerror})"
            ) from None
        try:
            yield
        finally:
            if self.table_is_whole or set(os.listdir(self.parts)) == {".lock"}:
                remove(self.parts)  # as far as possible: another process may be waiting there
            lock.release()

    def is_finished(self, job: Job) -> bool:
        """Raises InputError if a table of something else is there."""
        if not self.table.exists():
            return False
        before = _read_job(self.description)
        if before is None:
            raise InputError(
                f"--output must be new or an earlier table of the same, got {self.table} and no {self.description} to "
                "say what it was made from; choose another --output"
            )
        job.check_same(before, self.table)
        self.table_is_whole = True
        return True

    def begin(self, job: Job) -> list[tuple[int, int]]:
        """Prepares the folder of pieces and returns start and stop of the finished ones.

        Raises:
            InputError: pieces of another table.
        """
        finished = sorted(self._pieces())
        source = self.parts / self.description.name
        if finished:
            before = _read_job(source)
            if before is None:
                raise InputError(
                    f"{self.parts} must name the source of its pieces, got no complete {source}; remove it"
                )
            job.check_same(before, self.parts)
        else:
            with committed(source) as file:
                json.dump(asdict(job), file)
        return finished

    def keep(self, piece: Piece) -> None:
        stop = piece.start + len(piece.results)
        with committed(self.parts / f"{piece.start:09d}-{stop:09d}.json") as file:
            json.dump(piece.results, file)

    def finish(self, job: Job, files: Sequence[ImageFile], class_names: Sequence[str]) -> None:
        """Joins the pieces in the order of the images; the table is renamed into place last."""
        k = min(TOP_K, len(class_names))
        num_unreadable = 0
        with committed(self.table) as table:
            with committed(self.errors) as errors:
                columns = [f"{kind}_{place}" for place in range(1, k + 1) for kind in ("class", "prob")]
                rows, bad = TableWriter(table, ["path", *columns]), TableWriter(errors, ["path", "reason"])
                for file, result in zip(files, self._results(len(class_names)), strict=True):
                    if isinstance(result, str):
                        num_unreadable += 1
                        bad.write([file.name, result])
                    else:
                        best = ((class_names[number], f"{probability:.6g}") for number, probability in result)
                        rows.write([file.name, *(value for pair in best for value in pair)])
            with committed(self.description) as description:
                json.dump({**asdict(job), "num_unreadable": num_unreadable}, description, indent=1)
        self.table_is_whole = True

    def say_result(self) -> None:
        """Prints the last lines of a prediction."""
        unreadable = list(read_table(self.errors))
        if unreadable:
            named = first_of([f"{row['path']!r}: {row['reason']}" for row in unreadable], NUM_NAMED, "\n  ")
            print(f"{len(unreadable):,} files could not be read, listed in {self.errors}:\n  {named}")
        print(f"predictions: {self.table}", flush=True)

    def _pieces(self) -> dict[tuple[int, int], Path]:
        matches = ((re.fullmatch(r"(\d+)-(\d+)\.json", path.name), path) for path in self.parts.iterdir())
        return {(int(match[1]), int(match[2])): path for match, path in matches if match}

    def _results(self, num_classes: int) -> Iterator[Result]:
        for (start, stop), path in sorted(self._pieces().items()):
            try:
                results = json.loads(path.read_text())
                if not (isinstance(results, list) and len(results) == stop - start):
                    raise ValueError(f"it must hold {stop - start} results")
                if not all(_is_result(result, num_classes) for result in results):
                    raise ValueError("it must hold results")
            except ValueError as error:
                raise InputError(f"{path} is damaged ({error}); delete it and run the same command again") from None
            yield from results


@contextlib.contextmanager
def committed(path: Path) -> Iterator[TextIO]:
    """A text file that is renamed into place once written and synced.

    Raises:
        InferenceError: it cannot be written.
    """
    with (
        writing("predictions", path, "what is finished is kept; "),
        replaced(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        yield file


def _is_result(result: Any, num_classes: int) -> bool:
    """Whether a value is a reason, or classes by number with their probabilities."""
    if not isinstance(result, list):
        return isinstance(result, str)
    pairs = [pair for pair in result if isinstance(pair, list) and len(pair) == 2]
    return len(pairs) == len(result) and all(
        isinstance(number, int) and 0 <= number < num_classes and isinstance(probability, float | int)
        for number, probability in pairs
    )


def _missing(finished: list[tuple[int, int]], files: Sequence[ImageFile], size: int) -> list[Chunk]:
    """The images between the finished pieces, in chunks of up to `size`."""
    chunks, position = [], 0
    for start, stop in [*finished, (len(files), len(files))]:
        for first in range(position, start, size):
            paths = [file.path for file in files[first : min(first + size, start)]]
            chunks.append(Chunk(first, paths))
        position = stop
    return chunks


def _read_job(path: Path) -> Job | None:
    try:
        values = json.loads(path.read_text())
        return Job(**{"temperature": 1.0} | {one.name: values[one.name] for one in fields(Job) if one.name in values})
    except (OSError, ValueError, KeyError, TypeError):
        return None
