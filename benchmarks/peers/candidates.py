"""Who races: networks with the recipe of each, and the learning rates to choose among."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

import volo
from benchmarks.peers import networks
from volo.settings.augment import AugmentSettings
from volo.settings.optim import OptimSettings
from volo.training.optimizer.build import build_optimizer
from volo.training.optimizer.muon import Muon

Optimize = Callable[[nn.Module, float], torch.optim.Optimizer]
BATCH = 64


@dataclass(frozen=True)
class Candidate:
    """A network and how it is trained; `stages` are smaller sizes, in shares of an image's, and until when."""

    build: Callable[[int, int], nn.Module]
    optimize: Optimize
    rates: tuple[float, ...]
    augment: AugmentSettings = field(default_factory=partial(AugmentSettings, crop_padding=4))
    ema_decay: float = 0.999
    whiten: bool = False
    stages: tuple[tuple[float, float], ...] = ()


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels alone."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [dict(params=decayed, weight_decay=0.05), dict(params=others, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)


class ConvolutionalMuon(torch.optim.Optimizer):
    """Muon for kernels and Nesterov's momentum for the rest, as airbench94_muon has it."""

    def __init__(self, model: nn.Module, lr: float):
        kernels: list[Any] = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
        known = {id(weight) for weight in kernels}
        rest = [weight for weight in model.parameters() if id(weight) not in known]
        self.parts = (Muon(kernels, lr), torch.optim.SGD(rest, lr=lr, momentum=0.85, nesterov=True))
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no race has a closure
        for part in self.parts:
            part.step()


def ours(optimizer: Literal["adamw", "muon"]) -> Callable[[str], tuple[Callable[[int, int], nn.Module], Optimize]]:
    """This project's model and optimizer."""

    def build(name: str) -> tuple[Callable[[int, int], nn.Module], Optimize]:
        def make(num_classes: int, size: int) -> nn.Module:
            return volo.create_model(name, num_classes=num_classes, img_size=size, **networks.geometry(size))

        settings = OptimSettings(optimizer=optimizer)
        return make, lambda network, lr: build_optimizer(network, settings.model_copy(update=dict(lr=lr)))

    return build


RATES, MUON_RATES = (1e-3, 2e-3, 4e-3), (4e-3, 8e-3, 16e-3)
SMALLER_FIRST = ((0.75, 0.6),)


def variants(model: str) -> dict[str, Candidate]:
    """Our model, with one part of its recipe after the other."""
    plain, tuned = ours("adamw")(model), ours("muon")(model)
    return {
        "AdamW": Candidate(*plain, RATES),
        "Muon": Candidate(*tuned, MUON_RATES),
        "Muon, whitened": Candidate(*tuned, MUON_RATES, whiten=True),
        "Muon, whitened, smaller first": Candidate(*tuned, MUON_RATES, whiten=True, stages=SMALLER_FIRST),
    }


def candidates(model: str) -> dict[str, Candidate]:
    """All that race, by name; `model` is the size of ours whose geometry timm's blocks have."""
    own, rates = variants(model), RATES
    return {
        "VOLO, ours": own["Muon, whitened, smaller first"],
        "VOLO, ours, AdamW": own["AdamW"],
        "VOLO, timm's blocks": Candidate(partial(networks.timm_volo, model=model), adamw, rates),
        "ViT, timm": Candidate(networks.vit, adamw, rates),
        "CCT-2/3x2": Candidate(networks.CCT, adamw, rates),
        "ResNet-14": Candidate(networks.resnet, sgd, (0.05, 0.1, 0.2)),
        "airbench": Candidate(networks.airbench, ConvolutionalMuon, (1e-2, 2e-2, 4e-2), whiten=True),
    }
