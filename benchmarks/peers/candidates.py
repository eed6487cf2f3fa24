"""Who races: networks with the recipe of each, and the learning rates to choose among."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

import volo
from benchmarks.peers import networks
from volo.settings.augment import AugmentSettings
from volo.settings.optim import OptimSettings
from volo.training.optimizer.build import build_optimizer
from volo.training.optimizer.combined import Combined
from volo.training.optimizer.muon import Muon

Optimize = Callable[[nn.Module, float], torch.optim.Optimizer]
BATCH = 64
SMALL = 32  # pixels, of images that are shifted; larger ones are cut at random
# Of all candidates alike: what is usual for small images, and for photographs.
SMALL_IMAGES = AugmentSettings(crop_padding=4)
PHOTOGRAPHS = AugmentSettings(crop_area=(0.35, 1.0), auto_augment="trivial")


@dataclass(frozen=True)
class Candidate:
    """A network and how it is trained; `stages` are smaller sizes, in shares of an image's, and until when."""

    build: Callable[[int, int], nn.Module]
    optimize: Optimize
    rates: tuple[float, ...]
    ema_decay: float = 0.999
    whiten: bool = False
    stages: tuple[tuple[float, float], ...] = ()

    def share(self, done: float) -> float:
        """Of an image's size, when this share of the training is done."""
        return next((share for share, end in self.stages if done < end), 1.0)


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels alone."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [dict(params=decayed, weight_decay=0.05), dict(params=others, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)


def convolutional_muon(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Muon for kernels and Nesterov's momentum for the rest, as airbench94_muon has it."""
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    known = {id(weight) for weight in kernels}
    rest = [weight for weight in model.parameters() if id(weight) not in known]
    sgd_of_rest = torch.optim.SGD(rest, lr=lr, momentum=0.85, nesterov=True)
    return Combined(muon=Muon([dict(params=kernels)], lr), sgd=sgd_of_rest)


def ours(
    model: str, optimizer: Literal["adamw", "muon"], weight_decay: float = 0.05
) -> tuple[Callable[[int, int], nn.Module], Optimize]:
    """This project's model and optimizer."""

    def build(num_classes: int, size: int) -> nn.Module:
        return volo.create_model(model, num_classes=num_classes, img_size=size, **networks.geometry(size))

    def optimize(network: nn.Module, lr: float) -> torch.optim.Optimizer:
        return build_optimizer(network, OptimSettings(optimizer=optimizer, lr=lr, weight_decay=weight_decay))

    return build, optimize


RATES, MUON_RATES = (1e-3, 2e-3, 4e-3), (4e-3, 8e-3, 16e-3)


def smaller_first(size: int) -> tuple[tuple[float, float], ...]:
    """The stages of the recipes `nano` and `photos`."""
    return ((0.75, 0.6),) if size <= SMALL else ((0.5, 0.4), (0.75, 0.7))


def variants(model: str, size: int) -> dict[str, Candidate]:
    """Our model, with one part of its recipe after the other, for images of a size."""
    plain, tuned = ours(model, "adamw"), ours(model, "muon")
    return {
        "AdamW": Candidate(*plain, RATES),
        "Muon": Candidate(*tuned, MUON_RATES),
        "Muon, whitened": Candidate(*tuned, MUON_RATES, whiten=True),
        "Muon, whitened, smaller first": Candidate(*tuned, MUON_RATES, whiten=True, stages=smaller_first(size)),
    }


def candidates(model: str, size: int) -> dict[str, Candidate]:
    """All that race on images of a size, by name; `model` is the size of ours whose geometry timm's blocks have."""
    own = variants(model, size)
    decay = 0.05 if size <= SMALL else 0.2  # chosen on images held out of the training images: EXPERIMENTS.md
    return {
        "VOLO, ours": replace(own["Muon, whitened, smaller first"], optimize=ours(model, "muon", decay)[1]),
        "VOLO, ours, AdamW": own["AdamW"],
        "VOLO, timm's blocks": Candidate(partial(networks.timm_volo, model=model), adamw, RATES),
        "ViT, timm": Candidate(networks.vit, adamw, RATES),
        "CCT-2/3x2": Candidate(networks.CCT, adamw, RATES),
        "ResNet-14": Candidate(networks.resnet, sgd, (0.05, 0.1, 0.2)),
        "airbench": Candidate(networks.airbench, convolutional_muon, (1e-2, 2e-2, 4e-2), whiten=True),
    }
