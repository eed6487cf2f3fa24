"""Classes of uneven sizes: shown equally often, or counted equally."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from volo.data.epoch import EpochTable
from volo.settings.teaching import TeachingSettings
from volo.training.metrics import summed_loss
from volo.training.objective import Labels, balanced_weights


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 3))
def test_a_balanced_epoch_shows_each_class_and_each_of_its_images_equally_often(labels, epoch):
    labels = np.array(labels)
    order = EpochTable.draw(0, epoch, len(labels), balanced=labels).order
    assert len(order) == len(labels)
    shown = np.bincount(labels[order], minlength=6)[np.unique(labels)]
    assert np.ptp(shown) <= 1
    for name in np.unique(labels):
        times = np.bincount(order, minlength=len(labels))[labels == name]
        assert np.ptp(times) <= 1


def test_balanced_epochs_differ_and_are_the_same_each_time_they_are_drawn():
    labels = np.array([0] * 50 + [1] * 5)
    first, second, again = (EpochTable.draw(0, epoch, 55, balanced=labels).order for epoch in (0, 1, 0))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert np.bincount(labels[first]).tolist() in ([27, 28], [28, 27])


def test_weights_are_inverse_to_the_sizes_and_one_on_average():
    labels = np.array([0] * 6 + [1] * 2)
    weights = balanced_weights(labels, 3)
    assert weights[1] == 3 * weights[0]
    assert weights[torch.from_numpy(labels)].mean().item() == pytest.approx(1)


def test_weighted_classes_have_the_loss_of_a_set_in_which_they_are_as_large():
    """Six images of one class and two of the other: as if each of the two were there three times."""
    torch.manual_seed(0)
    labels = torch.tensor([0] * 6 + [1] * 2)
    images, model = torch.randn(8, 4), nn.Linear(4, 2)
    targets = nn.functional.one_hot(labels, 2) * 1.0
    weighted = Labels(TeachingSettings(), None, balanced_weights(labels.numpy(), 2))(model, images, targets, 0)
    repeated = labels.tolist().count(0) * [1] + 2 * [3]
    each = torch.stack(
        [summed_loss(model(image[None]), target[None]) for image, target in zip(images, targets, strict=True)]
    )
    expected = (each * torch.tensor(repeated)).sum() * 8 / 12
    torch.testing.assert_close(weighted, expected)
