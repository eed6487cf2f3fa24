"""One network trained for a given time, and its accuracy: the same loop, data and augmentation for every candidate."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.peers.candidates import BATCH, PHOTOGRAPHS, SMALL, SMALL_IMAGES, Candidate
from volo.data.crops import Cut
from volo.data.datasets import open_split, open_train
from volo.data.decoded.cache import Images
from volo.data.pipeline import Pixels, TrainingBatches, evaluation_batch_size, evaluation_batches
from volo.data.splits import Split
from volo.settings.augment import AugmentSettings
from volo.settings.config import build_settings
from volo.training.metrics import summed_loss
from volo.training.optimizer.average import MovingAverage
from volo.training.optimizer.schedule import learning_rate
from volo.training.whitening import samples, whiten_stem

CPU = torch.device("cpu")
PARTS, WARMUP_PARTS = 10_000, 500  # of the time, by which the learning rate is told
GRAD_CLIP, LEAST_RATE = 1.0, 0.01  # of the peak


@dataclass(frozen=True)
class Arena:
    """The images that all candidates are given."""

    images: Images
    split: Split
    pixels: Pixels
    tests: Images
    test_pixels: Pixels
    size: int

    @classmethod
    def of(cls, data_dir: str, size: int) -> "Arena":
        """An image folder with a test split, of whose training images a tenth validates."""
        values = dict(dataset="imagefolder", data_dir=data_dir, image_size=size, val_fraction=0.1)
        data = build_settings({"data": values}).resolved().data
        images, split = open_train(data)
        tests = open_split(data, "test")
        pixels, test_pixels = (Pixels(each, data.mean, data.std, CPU) for each in (images, tests))
        return cls(images, split, pixels, tests, test_pixels, data.image_size)

    @property
    def augment(self) -> AugmentSettings:
        return PHOTOGRAPHS if self.size > SMALL else SMALL_IMAGES

    def batches(self, seed: int, share: float) -> TrainingBatches:
        """Images have this share of the size."""
        augment = self.augment.resolved(self.size)
        if share < 1:
            augment = augment.model_copy(update=dict(resize_schedule=(f"{round(share * self.size)}:inf",)))
        return TrainingBatches(
            self.images, self.split.train, self.pixels, augment, batch_size=BATCH, seed=seed, epochs=1,
            cut=Cut(self.size, augment.crop_area) if augment.crop_area else None, num_readers=1,
        )  # fmt: skip

    @property
    def num_classes(self) -> int:
        return len(self.images.class_names)

    def val_accuracy(self, model: nn.Module) -> float:
        return accuracy(model, self.images, self.split.val, self.pixels)

    def test_accuracy(self, model: nn.Module) -> float:
        numbers = self.tests.decoded
        return accuracy(model, self.tests, numbers, self.test_pixels)


@dataclass(frozen=True)
class Trained:
    """`seconds` include what the candidate does before its first step."""

    model: nn.Module
    num_steps: int
    epochs: float
    seconds: float


def train(candidate: Candidate, arena: Arena, lr: float, seed: int, seconds: float) -> Trained:
    """Trains until the time is up, by which the learning rate falls: warmup, then a cosine to a hundredth."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    model = candidate.build(arena.num_classes, arena.size)
    if candidate.whiten:
        whiten_stem(model, map(arena.pixels.plain, samples(arena.split)))
    optimizer = candidate.optimize(model, lr)
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = MovingAverage(model, candidate.ema_decay)
    parameters, batches, share, step = list(model.parameters()), arena.batches(seed, 1.0), 1.0, 0
    model.train()
    while (done := (time.perf_counter() - start) / seconds) < 1:
        if share != (wanted := candidate.share(done)):
            batches.close()
            batches, share = arena.batches(seed, wanted), wanted
        batch = batches.batch(*divmod(step, batches.steps_per_epoch))
        optimizer.zero_grad(set_to_none=True)
        (summed_loss(model(batch.images), batch.targets) / BATCH).backward()
        nn.utils.clip_grad_norm_(parameters, GRAD_CLIP)
        factor = learning_rate(int(done * PARTS), PARTS, WARMUP_PARTS, 1.0, LEAST_RATE)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = factor * peak
        optimizer.step()
        average.update_parameters(model)
        step += 1
    batches.close()
    return Trained(average.module, step, step / batches.steps_per_epoch, time.perf_counter() - start)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, numbers: np.ndarray, pixels: Pixels) -> float:
    model.eval()
    right = total = 0
    for inputs, labels in evaluation_batches(images, numbers, pixels, batch_size=evaluation_batch_size(CPU)):
        right += int((model(inputs).argmax(dim=1) == labels).sum())
        total += len(labels)
    return right / total
