"""Grad-CAM: which places of a feature map are evidence for the class, and more so than for other classes?

Let A (B, h, w, C) be the output of the module that the model's `explained_layer` names. The evidence of a place for
class k in channel c is

    e_k = gradient of p(k) with respect to A  *  (A - mean of A over the places)              (B, h, w, C)

and the map is, with k the class explained and `others` NUM_OTHERS other classes,

    map = sum over channels of  positive part of e_k  -  root mean square over others of the positive part of e_other

Source: Selvaraju et al., arXiv:1610.02391; gradient times activation place by place, as HiResCAM (arXiv:2011.08891,
eq. 3), not averaged over the places first. Differs from both: activations count from their mean over the image, because
what all places share distinguishes none of them; the positive part is taken before the channels are summed, so
that none cancels another; evidence for other classes is subtracted; otherwise an untrained network would
point at whatever stands out from the background.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from volo.analysis.explaining.explain import Question
from volo.analysis.explaining.heatmaps import spread
from volo.analysis.subject import Subject, View, with_progress

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
        batches = with_progress(batches, "explaining by Grad-CAM", self.question.num_images(rank, world_size))
        maps = [grad_cam(model, images, classes).cpu().numpy() for images, classes in batches]
        return np.concatenate(maps) if maps else np.zeros((0, 0, 0), np.float32)


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """(B, in_chans, H, W) normalized images and (B,) classes -> (B, h, w) float32.

    In units of the class's log-odds.

    Raises:
        ValueError: the explained layer puts out no (B, h, w, C) map.
    """
    logits, activations = logits_and_map(model, images)
    if activations.ndim != 4:
        raise ValueError(
            f"the explained layer must put out a map (B, h, w, C), got {tuple(activations.shape)} from "
            f"{model.explained_layer}; name another as {type(model).__name__}.explained_layer"
        )
    asked = torch.cat([classes[:, None], other_classes(classes, logits.shape[1])], dim=1)  # (B, 1 + others)
    with torch.enable_grad():
        p = logits.double().softmax(dim=-1)  # double: its slope vanishes only where p is 1 to sixteen digits
        own = p.gather(1, classes[:, None]).detach()
        scores = p.gather(1, asked) / (own * (1 - own)).clamp(min=1e-30)  # (B, 1 + others)
        totals = scores.sum(dim=0)
    slopes = [torch.autograd.grad(total, activations, retain_graph=True)[0] for total in totals]
    distances = (activations - activations.mean(dim=(1, 2), keepdim=True)).detach()
    own, *others = ((slope * distances).clamp(min=0) for slope in slopes)  # (B, h, w, C) each
    if others:
        own = own - torch.stack(others).square().mean(dim=0).sqrt()
    return own.sum(dim=-1).float()  # (B, h, w)


def logits_and_map(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and the output of the explained layer that they can be differentiated by."""
    maps = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        maps.append(output.detach().requires_grad_())
        return maps[-1]

    hook = model.get_submodule(str(model.explained_layer)).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            return model(images), maps[-1]
    finally:
        hook.remove()


def other_classes(classes: Tensor, num_classes: int) -> Tensor:
    """(B,) classes -> (B, NUM_OTHERS) different ones, or all there are; the same for a class whatever the batch."""
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(0)).to(classes.device)
    count = min(NUM_OTHERS, num_classes - 1)
    return torch.stack([order[order != one][:count] for one in classes])


def heatmaps(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, h, w) maps over patches -> (n, height, width); the patches may reach beyond the lower and right edge."""
    rows, columns = (_centers(size, places) for size, places in ((height, maps.shape[1]), (width, maps.shape[2])))
    return spread(maps, rows, columns, height, width)


def _centers(size: int, places: int) -> np.ndarray:
    """In pixels, of patches that each cover as many whole pixels."""
    return (np.arange(places) + 0.5) * -(-size // places)
