import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import volo
from volo.analysis.explaining import occlusion
from volo.analysis.explaining.occlusion import Windows, loss_of_class, occlude


class Corner(nn.Module):
    """Sees class 1 where the lower left corner is bright, class 0 of three otherwise."""

    def forward(self, images):
        bright = 8 * images[:, :, -6:, :6].mean(dim=(1, 2, 3)) - 4
        return torch.stack([-bright, bright, torch.zeros_like(bright)], dim=1)


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_the_windows_cover_every_pixel_and_stay_inside(height, width):
    windows = Windows.of(height, width)
    covers = windows.covers(height, width)
    assert covers.shape == (len(windows.tops) * len(windows.lefts), height, width)
    assert covers.any(dim=0).all()
    assert (covers.sum(dim=(1, 2)) == windows.height * windows.width).all()
    assert len(windows.tops) == min(height, occlusion.PLACES)


def test_maps_equal_those_of_one_window_after_another():
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=5).eval()
    images, classes = torch.randn(3, 3, 32, 32), torch.tensor([0, 4, 2])
    found = occlude(model, images, classes)
    windows = Windows.of(32, 32)
    with torch.no_grad():
        before = model(images).softmax(dim=1)
        for row, top in enumerate(windows.tops):
            for column, left in enumerate(windows.lefts):
                covered = images.clone()
                covered[:, :, top : top + windows.height, left : left + windows.width] = 0.0
                changes = before - model(covered).softmax(dim=1)
                for number, own in enumerate(classes):
                    others = changes[number, torch.arange(5) != own].clamp(min=0)
                    expected = changes[number, own] - others.square().mean().sqrt()
                    assert found[number, row, column].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("size", [16, 32, 61])
def test_the_maximum_lies_where_the_class_is_seen(size):
    images = torch.zeros(2, 3, size, size)
    images[:, :, -6:, :6] = 1.0
    heatmaps = Windows.of(size, size).heatmaps(occlude(Corner(), images, torch.tensor([1, 1])).numpy(), size, size)
    assert heatmaps.shape == (2, size, size)
    row, column = np.unravel_index(heatmaps[0].argmax(), (size, size))
    assert row >= size - 6 and column < 6


def test_what_other_classes_lose_does_not_count_for_the_class():
    changes = torch.tensor([[0.2, 0.2, -0.2], [0.3, -0.1, -0.2], [-0.3, 0.3, 0.0]])
    found = loss_of_class(changes, torch.tensor([0, 0, 0]))
    expected = [0.2 - (0.04 / 2) ** 0.5, 0.3, -0.3 - (0.09 / 2) ** 0.5]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_of_two_classes_one_loses_what_the_other_gains():
    changes = torch.tensor([[0.4, -0.4], [-0.4, 0.4]])
    torch.testing.assert_close(loss_of_class(changes, torch.tensor([0, 0])), torch.tensor([0.4, -0.8]))


def test_one_pixel_and_one_class_have_a_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1))
    assert occlude(model, torch.ones(2, 3, 1, 1), torch.tensor([0, 0])).tolist() == [[[0.0]], [[0.0]]]
