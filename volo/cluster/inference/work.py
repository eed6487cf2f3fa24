"""Inference over the workers of a cluster: each takes its share of the images and returns the results."""

import platform

import numpy as np
import ray
import torch

from volo.analysis.subject import Subject, View, Work, open_view
from volo.cluster.workers import Workers, first_done, heed_node
from volo.console import Patience
from volo.errors import InferenceError, InputError
from volo.threads import set_threads


def work_on_ray(subject: Subject, view: View, work: Work, workers: Workers) -> np.ndarray:
    """(N, ...) results in the order of the work, for any number of workers.

    Each worker opens the view's images itself, from its own node's cache.

    Raises:
        InputError: as `open_view`, from a worker; a node has other images than the driver.
        InferenceError: a worker was lost and could not be replaced.
    """
    num_local = workers.num_local()
    task = ray.remote(num_cpus=1, num_gpus=int(workers.use_gpu), max_retries=2)(_share)
    shared = ray.put((subject, work, view.identity()))
    shares = [
        task.remote(shared, view.split, view.data_dir, rank, workers.num_workers, num_local, workers.use_gpu)
        for rank in range(workers.num_workers)
    ]
    patience, left = Patience(), set(shares)
    try:
        while left:
            done = first_done(list(left), workers, patience)
            left.remove(done)
            ray.get(done)  # raises its error, if it has one
        results = ray.get(shares)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise InferenceError(f"a worker was lost during the analysis ({error})") from error
    return np.concatenate([share for share in results if len(share)] or results[:1])


def _share(
    shared: tuple[Subject, Work, str],
    split: str,
    data_dir: str | None,
    rank: int,
    world_size: int,
    num_local: int,
    use_gpu: bool,
) -> np.ndarray:
    heed_node()
    set_threads(num_local)
    subject, work, identity = shared
    view = open_view(subject.description, split, data_dir)
    if view.identity() != identity:
        raise InputError(
            f"every node must have the same data, got other {split} images on {platform.node()} than on the node "
            "that started the analysis; make the folders the same on all nodes"
        )
    return work(subject, view, torch.device("cuda" if use_gpu else "cpu"), rank, world_size)
