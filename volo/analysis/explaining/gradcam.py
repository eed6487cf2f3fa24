"""Grad-CAM: which places of a map inside the network speak for the class, and for it more than for others?

Let A (B, h, w, C) be the map that the module named by the model's `explained_layer` puts out. What a place says for
class k by channel c is

    e_k = gradient of p(k) with respect to A  *  (A - mean of A over the places)              (B, h, w, C)

and the map is, with k the class explained and `others` NUM_OTHERS other classes,

    map = sum over channels of  positive part of e_k  -  root mean square over others of the positive part of e_other

Source: Selvaraju et al., arXiv:1610.02391; gradient times activation place by place, as HiResCAM (arXiv:2011.08891,
eq. 3), not averaged over the places first. Differs from both: activations count from their mean over the image, since
what all places have in common points to none of them; the positive part is taken before the channels are summed, so
that none cancels another; what is said for other classes as well is subtracted, or a network that has learned nothing
would point at whatever stands out of the background.
"""

from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import LayerActivation, LayerGradientXActivation
from torch import Tensor, nn

from volo.analysis.explaining.explain import Question
from volo.analysis.explaining.heatmaps import spread
from volo.analysis.subject import Subject, View

METHOD = (
    "Grad-CAM, place by place: positive part of the gradient of the class's probability times the activation's "
    "distance from its mean over the image, less the root mean square of the same for other classes, summed over "
    "channels"
)
NUM_OTHERS = 4
BATCH = 32


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
    """(B, 3, H, W) normalised images and (B,) classes -> (B, h, w) float32.

    In units of the class's log-odds. The maps inside are channel-last, so captum only differentiates here: its own
    LayerGradCam averages over the wrong axes of such maps without a complaint.

    Raises:
        ValueError: the explained layer puts out no (B, h, w, C) map.
    """
    layer = model.get_submodule(str(model.explained_layer))
    with torch.no_grad():
        activations = LayerActivation(model, layer).attribute(images)
        num_classes = model(images[:1]).shape[1]
    if activations.ndim != 4:
        raise ValueError(
            f"the explained layer must put out a map (B, h, w, C), got {tuple(activations.shape)} from "
            f"{model.explained_layer}; name another as {type(model).__name__}.explained_layer"
        )
    asked = torch.cat([classes[:, None], other_classes(classes, num_classes)], dim=1)  # (B, 1 + others)

    def probabilities(images: Tensor) -> Tensor:
        p = model(images).double().softmax(dim=-1)  # double: its slope vanishes only where p is 1 to sixteen digits
        own = p.gather(1, classes[:, None]).detach()
        return p.gather(1, asked) / (own * (1 - own)).clamp(min=1e-30)

    distances = activations - activations.mean(dim=(1, 2), keepdim=True)
    gradient = LayerGradientXActivation(probabilities, layer, multiply_by_inputs=False)
    slopes = (gradient.attribute(images, target=column).detach() for column in range(asked.shape[1]))
    own, *others = ((slope * distances).clamp(min=0) for slope in slopes)  # (B, h, w, C) each
    if others:
        own = own - torch.stack(others).square().mean(dim=0).sqrt()
    return own.sum(dim=-1).float()  # (B, h, w)


def other_classes(classes: Tensor, num_classes: int) -> Tensor:
    """(B,) classes -> (B, NUM_OTHERS) different ones, or all there are; the same for a class whatever the batch."""
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(0)).to(classes.device)
    count = min(NUM_OTHERS, num_classes - 1)
    return torch.stack([order[order != one][:count] for one in classes])


def heatmaps(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, h, w) maps over patches -> (n, height, width); the patches may reach beyond the lower and right edge."""
    rows, columns = (_centres(size, places) for size, places in ((height, maps.shape[1]), (width, maps.shape[2])))
    return spread(maps, rows, columns, height, width)


def _centres(size: int, places: int) -> np.ndarray:
    """In pixels, of patches that each cover as many whole pixels."""
    return (np.arange(places) + 0.5) * -(-size // places)
