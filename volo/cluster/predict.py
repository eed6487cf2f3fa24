"""Predictions for unlabelled images over the workers of a Ray cluster.

A pool of actors, each with the model in memory, takes chunks of images from the driver, which writes what comes back.
Not Ray Data, for three reasons. Its order of rows has to be paid for and its checkpoints (`ray.data.checkpoint`) resume
a `write_parquet` into many files that every node must reach, whereas here one table in the order of the images is
wanted, and the driver alone writes. A file that cannot be read has to become a row of another table, where its readers
either stop or leave it out. And what decides whether an earlier start may be gone on with, the hashes of checkpoint and
images, is the same off Ray. What is given up: images are read on the node that computes them, not on others as well.
"""

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from volo.analysis.explaining.images import Result, predict_files
from volo.analysis.predict import Chunk, Piece, predict
from volo.analysis.subject import Subject
from volo.cluster.connect import connected
from volo.cluster.workers import Workers, plan_workers
from volo.errors import InferenceError, InputError
from volo.settings.run import RunSettings
from volo.training.world import set_threads

QUEUED = 2  # chunks at each worker: one at work, one waiting
MAX_RESTARTS = 3


def predict_on_ray(path: Path, inputs: Sequence[str], output: Path, *, batch_size: int, run: RunSettings) -> None:
    """As `predict`. Ray is started when checkpoint, images and output have been found good, if anything is missing."""

    def compute(subject: Subject, chunks: list[Chunk]) -> Iterator[Piece]:
        if chunks:
            with connected(run.address):
                yield from over_workers(subject, chunks, batch_size, plan_workers(run))

    predict(path, inputs, output, batch_size=batch_size, compute=compute)


class Predictor:
    """An actor. `shared` holds a reference to the subject; `known` is an image that the driver sees, if it sees any."""

    def __init__(self, shared: list[ray.ObjectRef], batch_size: int, num_local: int, use_gpu: bool, known: str | None):
        set_threads(num_local)
        [self.subject] = ray.get(shared)
        self.batch_size, self.known = batch_size, known
        self.device = torch.device("cuda" if use_gpu else "cpu")

    def predict(self, paths: list[str]) -> list[Result]:
        check_seen(self.known)
        return predict_files(self.subject, paths, self.device, self.batch_size)


def check_seen(known: str | None) -> None:
    """Raises InputError on a node that does not see an image which the driver sees: else all would seem unreadable."""
    if known and not os.path.exists(known):
        raise InputError(
            f"every node must see the images under the same path, got no {known} on {platform.node()}; put them on "
            "storage that all share"
        )


def over_workers(subject: Subject, chunks: list[Chunk], batch_size: int, workers: Workers) -> Iterator[Piece]:
    """The pieces as they get ready. A worker that is lost is replaced and its chunk computed again, MAX_RESTARTS times.

    Raises:
        InputError: as `predict_files`, or images that a worker does not see.
        InferenceError: a worker that could not be replaced.
    """
    num_local = workers.num_local()
    known = next((path for chunk in chunks for path in chunk.paths if os.path.exists(path)), None)
    actor: Any = ray.remote(
        num_cpus=1, num_gpus=int(workers.use_gpu), max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS
    )(Predictor)
    shared = [ray.put(subject)]  # held here, so that a worker started anew finds it
    pool = [actor.remote(shared, batch_size, num_local, workers.use_gpu, known) for _ in range(workers.num_workers)]
    to_do = iter(chunks)
    at_work: dict[ray.ObjectRef, tuple[ray.actor.ActorHandle, Chunk]] = {}

    def give(worker: ray.actor.ActorHandle) -> None:
        if chunk := next(to_do, None):
            at_work[worker.predict.remote(chunk.paths)] = worker, chunk

    for worker in pool * QUEUED:
        give(worker)
    while at_work:
        [ready], _ = ray.wait(list(at_work), num_returns=1)
        worker, chunk = at_work.pop(ready)
        results = _fetched(ready)
        give(worker)
        yield Piece(chunk.start, results)


def _fetched(ready: ray.ObjectRef) -> list[Result]:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise InferenceError(
            f"a worker was lost {MAX_RESTARTS + 1} times ({error}); what is finished is kept, and the same command "
            "goes on"
        ) from error
