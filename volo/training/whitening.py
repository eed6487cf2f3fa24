"""A stem that whitens: its first convolution starts as the principal components of the training images' patches.

The components, scaled to unit variance, and their negatives are the filters, so that the following nonlinearity sees
each direction from both sides (https://arxiv.org/abs/2404.00498, section 3.2, where they stay as they are; here they
are trained).
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volo.data.splits import Split
from volo.errors import InputError
from volo.settings.config import Settings

LEAST_IMAGES, MOST_IMAGES, AT_ONCE = 100, 2000, 100
EPS = 5e-4  # of the mean variance: directions that hardly vary are not blown up to noise


def check_whitening(settings: Settings, split: Split) -> None:
    """Raises InputError if there are too few images to whiten with."""
    if settings.optim.whiten_stem and len(split.train) < LEAST_IMAGES:
        raise InputError(
            f"--whiten-stem needs at least {LEAST_IMAGES} images to train on, got {len(split.train)}; omit it "
            "(--no-whiten-stem, if a recipe or a file sets it)"
        )


def samples(split: Split) -> list[np.ndarray]:
    """The numbers of the images to whiten with, spread evenly over those to train on, in parts."""
    places = np.linspace(0, len(split.train) - 1, min(MOST_IMAGES, len(split.train))).astype(int)
    chosen = split.train[places]
    return np.array_split(chosen, -(-len(chosen) // AT_ONCE))


@torch.no_grad()
def whiten_stem(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Initializes the model's first convolution from images, (n, in_chans, H, W) each, normalized as for the model.

    With c output channels, the first c / 2 components are taken; channels beyond twice the number of components keep
    their initialization.
    """
    convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    kernel_size = (convolution.kernel_size[0], convolution.kernel_size[1])
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for part in images:
        patches = F.unfold(part.cpu(), kernel_size, stride=kernel_size).double()  # (n, in_chans * k * k, L)
        count += patches.shape[0] * patches.shape[2]
        total = total + patches.sum(dim=(0, 2))
        squares = squares + torch.einsum("nil,njl->ij", patches, patches)
    mean = total / count
    variances, components = torch.linalg.eigh(squares / count - mean.outer(mean))
    variances = variances.clamp(min=0).flip(0)
    filters = components.flip(1).T / (variances + EPS * variances.mean()).sqrt()[:, None]  # largest variance first
    filters = filters[: convolution.out_channels // 2]
    both = torch.cat([filters, -filters])
    convolution.weight[: len(both)] = both.view(-1, *convolution.weight.shape[1:]).to(convolution.weight)
    if convolution.bias is not None:
        convolution.bias[: len(both)] = -(both @ mean).to(convolution.bias)
