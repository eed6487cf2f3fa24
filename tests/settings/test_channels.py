"""The number of channels that images are read as, and what it is normalized by."""

import pytest

from volo.errors import InputError
from volo.settings.config import build_settings
from volo.settings.data import IMAGENET, NORMALIZATION


def normalization(**data) -> tuple:
    resolved = build_settings({"data": {"dataset": "imagefolder", **data}}).resolved().data
    return resolved.mean, resolved.std


def test_red_green_and_blue_are_normalized_as_ever():
    assert normalization() == normalization(in_chans=3) == IMAGENET
    assert normalization(dataset="cifar10") == NORMALIZATION["cifar10"]


@pytest.mark.parametrize(("dataset", "of_rgb"), [("imagefolder", IMAGENET), ("cifar100", NORMALIZATION["cifar100"])])
def test_gray_is_normalized_by_the_mean_of_the_three(dataset, of_rgb):
    mean, std = normalization(dataset=dataset, in_chans=1)
    assert (mean, std) == tuple((pytest.approx(sum(values) / 3, abs=1e-6),) for values in of_rgb)


@pytest.mark.parametrize("in_chans", [2, 4, 13])
def test_other_channels_are_normalized_by_a_half_unless_told_otherwise(in_chans):
    assert normalization(in_chans=in_chans) == ((0.5,) * in_chans, (0.5,) * in_chans)
    own = tuple(range(1, in_chans + 1))
    assert normalization(in_chans=in_chans, mean=own) == (own, (0.5,) * in_chans)


@pytest.mark.parametrize("in_chans", [0, 14, -1, True, "many"])
def test_there_are_1_to_13_channels(in_chans):
    with pytest.raises(InputError, match=r"data\.in_chans must"):
        normalization(in_chans=in_chans)
