import numpy as np
import pytest
import torch
from torch import nn

import volo
from tests.model.forms import FORMS
from volo.analysis.explaining.gradcam import grad_cam, heatmaps, other_classes


class Linear(nn.Module):
    """Logits are weighted sums over the places and channels of a channel-last map."""

    explained_layer = "map"

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.map = nn.Identity()
        self.weights = nn.Parameter(weights)  # (K, h, w, C)

    def forward(self, images):
        return torch.einsum("bhwc,khwc->bk", self.map(images.permute(0, 2, 3, 1)), self.weights)


def by_formula(weights, images, own: int, others: list[int]) -> torch.Tensor:
    """(1, h, w): the docstring's formula, with the slopes of the softmax written out."""
    activations = images.permute(0, 2, 3, 1)
    p = torch.einsum("bhwc,khwc->bk", activations, weights)[0].softmax(dim=0)
    mean_weights = torch.einsum("k,khwc->hwc", p, weights)
    distances = activations - activations.mean(dim=(1, 2), keepdim=True)
    scale = p[own] * (1 - p[own])
    said = [(p[k] / scale * (weights[k] - mean_weights) * distances).clamp(min=0) for k in (own, *others)]
    return (said[0] - torch.stack(said[1:]).square().mean(dim=0).sqrt()).sum(dim=-1)


@pytest.mark.parametrize("num_classes", [2, 4, 9])
def test_map_equals_the_formula(num_classes):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(num_classes, 4, 5, 3, generator=generator) / 5
    images = torch.randn(2, 3, 4, 5, generator=generator)
    classes = torch.tensor([0, num_classes - 1])
    found = grad_cam(Linear(weights), images, classes)
    others = other_classes(classes, num_classes).tolist()
    expected = [by_formula(weights, images[i : i + 1], classes[i], others[i]) for i in range(2)]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_the_only_place_that_matters_is_the_only_one_that_lights_up():
    """The channels come last: read as (B, C, h, w), the map would have another shape and another maximum."""
    weights = torch.zeros(2, 6, 3, 2)
    weights[0, 4, 1, 0] = 1.0
    images = torch.zeros(1, 2, 6, 3)
    images[0, 0, 4, 1] = 1.0
    found = grad_cam(Linear(weights), images, torch.tensor([0]))
    assert found.shape == (1, 6, 3)
    assert found[0, 4, 1] > 0 and found.count_nonzero() == 1


def test_what_speaks_for_other_classes_as_well_does_not_count():
    """One place speaks for class 0 alone, another as loudly for classes 0 to 4 and so against class 5."""
    weights = torch.zeros(6, 2, 2, 1)
    weights[0, 0, 0] = weights[:5, 1, 1] = 1.0
    images = torch.zeros(1, 1, 2, 2)
    images[0, 0, 0, 0] = images[0, 0, 1, 1] = 1.0
    found = grad_cam(Linear(weights), images, torch.tensor([0]))[0]
    assert found[0, 0] > 0 and found[1, 1] < found[0, 0] / 4


def test_a_prediction_that_is_nearly_certain_still_has_a_map():
    """In single precision its probability is 1, and every slope 0."""
    weights = torch.zeros(3, 2, 2, 1)
    weights[0, 0, 0] = 30.0
    images = torch.ones(1, 1, 2, 2) * torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert Linear(weights)(images).softmax(dim=1)[0, 0] == 1
    assert grad_cam(Linear(weights), images, torch.tensor([0]))[0].argmax() == 0


@pytest.mark.parametrize("num_classes", [1, 2, 3, 5, 6, 100])
def test_other_classes_are_different_ones_and_do_not_depend_on_the_batch(num_classes):
    classes = torch.arange(num_classes)
    others = other_classes(classes, num_classes)
    assert others.shape == (num_classes, min(4, num_classes - 1))
    for own, row in zip(classes.tolist(), others.tolist(), strict=True):
        assert own not in row and len({*row}) == len(row)
        assert other_classes(torch.tensor([own]), num_classes).tolist() == [row]


@pytest.mark.parametrize("form", [*FORMS, {"local_depth": 0}], ids=lambda form: "-".join(map(str, form.values())))
@pytest.mark.parametrize("size", [32, 30, 45])
def test_every_form_has_a_map_for_every_image_size(form, size):
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=7, **form).eval()
    found = grad_cam(model, torch.randn(2, 3, size, size), torch.tensor([3, 6]))
    side = -(-size // 4)
    assert found.shape == (2, side, side)
    assert found.isfinite().all() and (found.abs().amax(dim=(1, 2)) > 0).all()
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
