"""Predictions for unlabeled images over the workers of a Ray cluster.

A pool of actors, each with the model in memory, takes shares of the images from the driver, a few chunks each, and
streams the results to it, which writes them. Ray Data is not used, for three reasons. Keeping its rows in order costs
extra, and its checkpoints (`ray.data.checkpoint`) resume a `write_parquet` into many files that every node must reach,
whereas here the driver writes one table in the order of the images. A file that cannot be read must become a row of
another table, whereas its readers either stop or skip the file. And the hashes of checkpoint and images, which decide
whether an earlier start may be resumed, are the same without Ray. The drawback: images are read only on the node that
computes them.
"""

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from volo.analysis.predict import Chunk, Count, Piece, pieces, predict
from volo.analysis.subject import Subject
from volo.cluster.connect import connected
from volo.cluster.workers import Workers, first_done, heed_node, plan_workers
from volo.console import Patience
from volo.errors import InferenceError, InputError
from volo.settings.run import RunSettings
from volo.threads import set_threads

QUEUED = 2  # shares per worker: one in work, one waiting
TOGETHER = 8  # chunks of a share at most: processes that read images start once for each share
MAX_RESTARTS = 3


def predict_on_ray(
    path: Path, inputs: Sequence[str], output: Path, *, batch_size: int, run: RunSettings, temperature: float = 1.0
) -> None:
    """As `predict`. Ray starts after checkpoint, images and output have been checked, if there is work left."""

    def compute(subject: Subject, chunks: list[Chunk], count: Count) -> Iterator[Piece]:
        if chunks:
            with connected(run.address, loss=InferenceError):
                for piece in over_workers(subject, chunks, batch_size, plan_workers(run)):
                    count(len(piece.results))
                    yield piece

    predict(path, inputs, output, batch_size=batch_size, compute=compute, temperature=temperature)


class Predictor:
    """An actor. `shared` holds a reference to the subject; `known` is an image that the driver sees, or None."""

    def __init__(self, shared: list[ray.ObjectRef], batch_size: int, num_local: int, use_gpu: bool, known: str | None):
        heed_node()
        set_threads(num_local)
        [self.subject] = ray.get(shared)
        self.batch_size, self.known = batch_size, known
        self.device = torch.device("cuda" if use_gpu else "cpu")

    def predict(self, share: list[Chunk]) -> Iterator[Piece]:
        check_seen(self.known)
        yield from pieces(self.subject, share, self.device, self.batch_size)


def check_seen(known: str | None) -> None:
    """Raises InputError on a node that cannot see an image of the driver, where all images would seem unreadable."""
    if known and not os.path.exists(known):
        raise InputError(
            f"every node must see the images under the same path, got no {known} on {platform.node()}; put them on "
            "storage that all nodes share"
        )


def over_workers(subject: Subject, chunks: list[Chunk], batch_size: int, workers: Workers) -> Iterator[Piece]:
    """Yields pieces as they finish. A lost worker is replaced and its share computed again, up to MAX_RESTARTS times.

    Raises:
        InputError: as `pieces`; a worker does not see the images.
        InferenceError: a worker could not be replaced.
    """
    num_local = workers.num_local()
    known = next((path for chunk in chunks for path in chunk.paths if os.path.exists(path)), None)
    actor: Any = ray.remote(
        num_cpus=1, num_gpus=int(workers.use_gpu), max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS
    )(Predictor)
    shared = [ray.put(subject)]  # kept alive here for workers that are restarted
    pool = [actor.remote(shared, batch_size, num_local, workers.use_gpu, known) for _ in range(workers.num_workers)]
    together = max(1, min(TOGETHER, len(chunks) // (2 * QUEUED * workers.num_workers)))  # so that all have some to do
    to_do = iter([chunks[start : start + together] for start in range(0, len(chunks), together)])
    at_work: dict[ray.ObjectRefGenerator, tuple[ray.actor.ActorHandle, int]] = {}  # and how many pieces are to come

    def give(worker: ray.actor.ActorHandle) -> None:
        if share := next(to_do, None):
            at_work[worker.predict.remote(share)] = worker, len(share)

    for worker in pool * QUEUED:
        give(worker)
    patience = Patience()
    while at_work:
        ready = first_done(list(at_work), workers, patience)
        piece = _fetched(next(ready))
        worker, left = at_work.pop(ready)
        if left > 1:
            at_work[ready] = worker, left - 1
        else:
            give(worker)
        yield piece


def _fetched(ready: ray.ObjectRef) -> Piece:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise InferenceError(
            f"a worker was lost {MAX_RESTARTS + 1} times ({error}); finished predictions are kept, and the same "
            "command resumes"
        ) from error
