"""Grad-CAM: which places of a map inside the network speak for the class?

For the map A (B, h, w, C) that the module named by the model's `explained_layer` puts out, and the gradient G of the
class's log-probability with respect to it,

    map = sum over channels of the positive part of  G * (A - mean of A over the places)      (B, h, w)

Source: Selvaraju et al., arXiv:1610.02391; gradient times activation place by place, as HiResCAM (arXiv:2011.08891,
eq. 3), not averaged over the places first. Differs from both: activations count from their mean over the image, since
what all places have in common points to none of them, and the positive part is taken before the channels are summed,
so that none cancels another.
"""

from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import LayerActivation, LayerGradientXActivation
from torch import Tensor, nn

from volo.analysis.explain import Question
from volo.analysis.heatmaps import spread
from volo.analysis.subject import Subject, View

METHOD = (
    "Grad-CAM, place by place: positive part of the gradient of the log-probability times the activation's distance "
    "from its mean over the image, summed over channels"
)
BATCH = 64


@dataclass(frozen=True, eq=False)
class GradCam:
    """Work for workers: (n, h, w) float32 maps that answer a question."""

    question: Question

    def __call__(
        self, subject: Subject, view: View, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> np.ndarray:
        model = self.question.model(subject).to(device)
        batches = self.question.batches(subject, view, device, rank, world_size, BATCH)
        maps = [grad_cam(model, images, classes).cpu().numpy() for images, classes in batches]
        return np.concatenate(maps) if maps else np.zeros((0, 0, 0), np.float32)


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """(B, 3, H, W) normalised images and (B,) classes -> (B, h, w) float32, at least 0.

    The maps inside are channel-last, so captum only differentiates here: its own LayerGradCam averages over the wrong
    axes of such maps without a complaint.

    Raises:
        ValueError: the explained layer puts out no (B, h, w, C) map.
    """

    def log_probabilities(images: Tensor) -> Tensor:
        return model(images).float().log_softmax(dim=-1)

    layer = model.get_submodule(model.explained_layer)
    with torch.no_grad():
        activations = LayerActivation(log_probabilities, layer).attribute(images)
    if activations.ndim != 4:
        raise ValueError(
            f"the explained layer must put out a map (B, h, w, C), got {tuple(activations.shape)} from "
            f"{model.explained_layer}; name another as {type(model).__name__}.explained_layer"
        )
    gradients = LayerGradientXActivation(log_probabilities, layer, multiply_by_inputs=False).attribute(
        images, target=classes
    )
    distances = activations - activations.mean(dim=(1, 2), keepdim=True)
    return (gradients * distances).detach().float().relu().sum(dim=-1)  # (B, h, w)


def heatmaps(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, h, w) maps over patches -> (n, height, width); the patches may reach beyond the lower and right edge."""
    rows, columns = (_centres(size, places) for size, places in ((height, maps.shape[1]), (width, maps.shape[2])))
    return spread(maps, rows, columns, height, width)


def _centres(size: int, places: int) -> np.ndarray:
    """In pixels, of patches that each cover as many whole pixels."""
    return (np.arange(places) + 0.5) * -(-size // places)
