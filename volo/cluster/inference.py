"""Inference over the workers of a cluster: each takes its share of the images and returns its logits."""

from pathlib import Path

import numpy as np
import ray
import torch

from volo.analysis.subject import compute_logits, load_subject, open_view
from volo.cluster.workers import Workers
from volo.errors import InputError, TrainingError
from volo.training.world import set_threads


def logits_on_ray(path: Path, split: str, data_dir: str | None, workers: Workers) -> np.ndarray:
    """(N, classes) float32 of a checkpoint on a split, in the split's order, whatever the number of workers.

    Raises:
        InputError: as `open_view` and `load_subject`, from a worker.
        TrainingError: a worker that was lost and could not be replaced.
    """
    num_local = workers.num_local()
    task = ray.remote(num_cpus=1, num_gpus=int(workers.use_gpu), max_retries=2)(_share)
    shares = [
        task.remote(str(path), split, data_dir, rank, workers.num_workers, num_local, workers.use_gpu)
        for rank in range(workers.num_workers)
    ]
    try:
        return np.concatenate(ray.get(shares))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise TrainingError(f"a worker was lost while computing logits ({error})") from error


def _share(
    path: str, split: str, data_dir: str | None, rank: int, world_size: int, num_local: int, use_gpu: bool
) -> np.ndarray:
    set_threads(num_local)
    subject = load_subject(Path(path))
    view = open_view(subject.description, split, data_dir)
    return compute_logits(subject, view, torch.device("cuda" if use_gpu else "cpu"), rank, world_size)
