"""Batches of images with other channels than red, green and blue: what augmentation does to each channel."""

import numpy as np
import pytest
import torch
from torch import Tensor

from volo.data.augment import crop_and_flip, erase, normalize
from volo.data.autoaugment import color_jitter, rand_augment, trivial_augment
from volo.data.decoded.cache import Images
from volo.data.epoch import NUM_UNIFORMS
from volo.data.pictures import shown_channels, shown_in_words
from volo.data.pipeline import Pixels, TrainingBatches
from volo.settings.augment import AugmentSettings

COUNT, SIZE = 120, 20
UNIFORMS = np.random.default_rng(0).random((COUNT, NUM_UNIFORMS)).astype(np.float32)
AUGMENTATIONS = {
    "trivial": lambda images: trivial_augment(images, UNIFORMS),
    "rand": lambda images: rand_augment(images, UNIFORMS, 12.0),
    "jitter": lambda images: color_jitter(images, UNIFORMS, 0.8),
}


def drawn(channels: int) -> Tensor:
    """(COUNT, SIZE, SIZE, channels) uint8, smooth."""
    coarse = torch.rand(COUNT, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (10 + 230 * fine).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gray_images_change_as_the_same_images_in_color(name):
    """Saturation leaves both as they are."""
    gray = drawn(1)
    colors = AUGMENTATIONS[name](gray.expand(-1, -1, -1, 3).clone())
    assert not torch.equal(colors[..., :1], gray)
    assert torch.equal(AUGMENTATIONS[name](gray.clone()).expand(-1, -1, -1, 3), colors)


@pytest.mark.parametrize("channels", [2, 4, 13])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_channels_without_colors_change_each_by_itself(name, channels):
    images = drawn(channels)
    found = AUGMENTATIONS[name](images.clone())
    alone = [AUGMENTATIONS[name](images[..., [number]].clone()) for number in range(channels)]
    assert torch.equal(found, torch.cat(alone, dim=-1))


@pytest.mark.parametrize("channels", [1, 5])
def test_every_channel_is_normalized_by_its_own_values_and_erased_to_its_mean(channels):
    images, index = drawn(channels), torch.arange(COUNT)
    mean, std = torch.linspace(0.1, 0.9, channels), torch.linspace(0.2, 0.4, channels)
    moved = crop_and_flip(images, index, torch.from_numpy(UNIFORMS), 2, 0.5)
    found = normalize(moved, mean, std)
    assert found.shape == (COUNT, channels, SIZE, SIZE)
    for number in range(channels):
        expected = (moved[..., number] / 255 - mean[number]) / std[number]
        torch.testing.assert_close(found[:, number], expected)
    erased = erase(found, UNIFORMS, 1.0)
    assert ((erased == 0).all(dim=1) == (erased == 0).any(dim=1)).float().mean() > 0.99


@pytest.mark.parametrize("channels", [1, 5])
def test_batches_of_any_channels_are_augmented_mixed_and_shrunk(channels):
    labels = np.arange(COUNT) % 2
    data = Images(drawn(channels).numpy(), labels, ("cat", "dog"))
    pixels = Pixels(data, (0.5,) * channels, (0.25,) * channels, torch.device("cpu"))
    augment = AugmentSettings(
        auto_augment="rand", color_jitter=0.4, random_erasing=0.5, mixup_alpha=0.5, cutmix_alpha=1.0,
        resize_schedule=("12:0.5",),
    ).resolved(SIZE)  # fmt: skip
    batches = TrainingBatches(data, np.arange(COUNT), pixels, augment, batch_size=40, seed=0, epochs=2)
    for epoch, size in ((0, 12), (1, SIZE)):
        batch = batches.batch(epoch, 2)
        assert batch.images.shape == (40, channels, size, size)
        assert batch.images.isfinite().all()
    assert torch.equal(batches.batch(1, 2).images, batch.images)


def test_pictures_show_gray_as_gray_and_of_many_channels_the_first_three():
    assert [shown_channels(number) for number in (1, 2, 3, 13)] == [[0, 0, 0], [0, 0, 0], [0, 1, 2], [0, 1, 2]]
    assert [shown_in_words(number) for number in (1, 3)] == ["", ""]
    assert "Of the 5 channels, pictures show the first three" in shown_in_words(5)
