import numpy as np
import pytest
import torch
from torch import nn

import volo
from volo.analysis.gradcam import grad_cam, heatmaps


class Linear(nn.Module):
    """Two classes: the logit of the first is a weighted sum over places and channels of a channel-last map."""

    explained_layer = "map"

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.map = nn.Identity()
        self.weights = nn.Parameter(weights)  # (h, w, C)

    def forward(self, images):
        x = self.map(images.permute(0, 2, 3, 1))  # (B, h, w, C)
        first = (x * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def test_map_equals_one_computed_by_hand():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 5, 3, generator=generator)
    images = torch.randn(2, 3, 4, 5, generator=generator)
    found = grad_cam(Linear(weights), images, torch.tensor([0, 1]))
    activations = images.permute(0, 2, 3, 1)
    distances = activations - activations.mean(dim=(1, 2), keepdim=True)
    p = torch.sigmoid((activations * weights).sum(dim=(1, 2, 3)))
    slope = torch.stack([1 - p[0], -p[1]])  # of the log-probability of class 0, and of class 1, by the logit
    expected = (slope[:, None, None, None] * weights * distances).clamp(min=0).sum(dim=-1)
    torch.testing.assert_close(found, expected)


def test_the_only_place_that_matters_is_the_only_one_that_lights_up():
    """The channels come last: read as (B, C, h, w), the map would have another shape and another maximum."""
    weights = torch.zeros(6, 3, 2)
    weights[4, 1, 0] = 1.0
    images = torch.zeros(1, 2, 6, 3)
    images[0, 0, 4, 1] = 1.0
    found = grad_cam(Linear(weights), images, torch.tensor([0]))
    assert found.shape == (1, 6, 3)
    assert found[0, 4, 1] > 0 and found.count_nonzero() == 1


@pytest.mark.parametrize("form", [{}, {"local_depth": 0}, {"global_depth": 0}])
@pytest.mark.parametrize("size", [32, 30, 45])
def test_every_form_has_a_map_for_every_image_size(form, size):
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=7, **form).eval()
    found = grad_cam(model, torch.randn(2, 3, size, size), torch.tensor([3, 6]))
    side = -(-size // 4)
    assert found.shape == (2, side, side)
    assert (found >= 0).all() and found.amax(dim=(1, 2)).min() > 0
    assert heatmaps(found.numpy(), size, size).shape == (2, size, size)


def test_a_layer_without_a_map_is_refused():
    model = volo.create_model("quickstart", num_classes=7).eval()
    model.explained_layer = "norm"
    with pytest.raises(ValueError, match=r"must put out a map \(B, h, w, C\), got \(2, 64\) from norm"):
        grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))


def test_heatmaps_have_their_maximum_within_the_patch():
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 2, 7] = 1.0
    row, column = np.unravel_index(heatmaps(maps, 30, 30)[0].argmax(), (30, 30))
    assert 8 <= row < 12 and 28 <= column < 30
