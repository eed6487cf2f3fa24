"""The loss that training minimizes: from the labels, or also from a teacher's predictions for images and patches."""

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volo.model.token_labels import Box, DenseLogits, draw_box
from volo.settings.teaching import TeachingSettings
from volo.training.metrics import summed_loss
from volo.training.teacher import Teacher

BOX_STREAM = 1


class Objective(Protocol):
    """Computes the loss of a batch."""

    def module(self, model: nn.Module) -> nn.Module:
        """The module to wrap with DDP and to call for each batch."""

    def __call__(self, module: nn.Module, images: Tensor, targets: Tensor, step: int) -> Tensor:
        """The loss, (), summed over a share of the batch; targets (b, classes) are probabilities."""


class Labels:
    """Cross entropy with the labels, mixed with the teacher's probabilities by the weight `distillation`.

    Args:
        class_weights: (classes,) by which each class's term of the cross entropy is multiplied; None: 1.
    """

    def __init__(self, settings: TeachingSettings, teacher: Teacher | None, class_weights: Tensor | None = None):
        self.weight, self.teacher, self.class_weights = settings.distillation, teacher, class_weights

    def module(self, model: nn.Module) -> nn.Module:
        return model

    def __call__(self, module: nn.Module, images: Tensor, targets: Tensor, step: int) -> Tensor:
        return summed_loss(module(images), self.softened(images, targets))

    def softened(self, images: Tensor, targets: Tensor) -> Tensor:
        if self.teacher is not None and self.weight:
            targets = targets.lerp(self.teacher.probabilities(images), self.weight)
        return targets if self.class_weights is None else targets * self.class_weights


class TokenLabels(Labels):
    """Cross entropy with the labels, and of every patch with the teacher's probabilities (arXiv 2104.10858, eq. 3).

    The pooled loss has weight 1 (or its classes' weights), the mean over patches has weight `token_label_weight`. With
    `mix_token`, a box of patches is exchanged between images i and b - 1 - i of a worker's share; it depends on (seed,
    step) only.
    """

    teacher: Teacher

    def __init__(
        self,
        settings: TeachingSettings,
        teacher: Teacher,
        seed: int,
        grid: tuple[int, int],
        class_weights: Tensor | None = None,
    ):
        super().__init__(settings, teacher, class_weights)
        self.patch_weight = settings.token_label_weight
        self.mixes, self.seed, self.grid = settings.mix_token, seed, grid

    def module(self, model: nn.Module) -> nn.Module:
        return Dense(model)

    def __call__(self, module: nn.Module, images: Tensor, targets: Tensor, step: int) -> Tensor:
        box = draw_box(step_generator(self.seed, step), self.grid) if self.mixes else None
        dense = module(images, box)
        patch_targets = self.teacher.patch_probabilities(images, tuple(dense.patch_logits.shape[1:3]))
        return token_label_loss(dense, self.softened(images, targets), patch_targets, box, self.patch_weight)


class Dense(nn.Module):
    """A model whose call returns the logits of all its heads."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model  # a published model: nn.Module does not declare `dense`

    def forward(self, images: Tensor, box: Box | None = None) -> DenseLogits:
        return self.model.dense(images, box)


def token_label_loss(
    dense: DenseLogits, targets: Tensor, patch_targets: Tensor, box: Box | None = None, patch_weight: float = 0.5
) -> Tensor:
    """Cross entropy of the pooled logits plus `patch_weight` times its mean over the patches, summed over the batch.

    Args:
        dense: Logits (B, K) and patch logits (B, h, w, K), after MixToken has been undone for the patches.
        targets, patch_targets: Probabilities of the same shapes.
        box: The box that MixToken exchanged; the pooled targets are mixed by its area.
    """
    if box is not None:
        targets = targets.lerp(targets.flip(0), box.area)
    _, h, w, _ = patch_targets.shape
    patches = F.cross_entropy(
        dense.patch_logits.float().flatten(0, 2), patch_targets.flatten(0, 2), reduction="sum"
    )  # ()
    return summed_loss(dense.logits, targets) + patch_weight * patches / (h * w)


def balanced_weights(labels: np.ndarray, num_classes: int) -> Tensor:
    """(N,) labels -> (num_classes,) float32, inversely proportional to the number of labels of each class; the mean
    over the labels is 1."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(weights.astype(np.float32))


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The generator for what one step draws, the same on all workers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step, BOX_STREAM))))
