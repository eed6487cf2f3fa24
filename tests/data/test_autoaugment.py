"""TrivialAugment on batches: each operation against torchvision's, and each sample by itself."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as F

from tests.conftest import draw_folder
from volo.data.autoaugment import (
    BLENDS,
    MOVES,
    NUM_LEVELS,
    TONES,
    Op,
    blended,
    color_jitter,
    drawn_ops,
    moved,
    rand_augment,
    rand_ops,
    retoned,
    trivial_augment,
)  # fmt: skip
from volo.data.decoded.cache import cached
from volo.data.epoch import NUM_UNIFORMS, Draw, EpochTable
from volo.data.folders.imagefolder import ImageFolder
from volo.data.pipeline import Pixels, TrainingBatches
from volo.settings.augment import AugmentSettings


def smooth_images(count: int, height: int, width: int) -> Tensor:
    """(count, H, W, 3) uint8: soft patches of color, as photographs have; neither black nor white."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (20 + 210 * fine).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


IMAGES = smooth_images(3, 32, 40)
ADJUSTMENTS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


def draws(count: int, op: Op, level: int, sign: int) -> np.ndarray:
    """Uniform numbers that draw this operation at this level for every sample."""
    uniforms = np.full((count, NUM_UNIFORMS), 0.5, dtype=np.float32)
    uniforms[:, Draw.AUTO_OP] = (op + 0.5) / len(Op)
    uniforms[:, Draw.AUTO_LEVEL] = (level + 0.5) / NUM_LEVELS
    uniforms[:, Draw.AUTO_SIGN] = 0.25 if sign < 0 else 0.75
    return uniforms


def sheared(image: Tensor, x: float, y: float) -> Tensor:
    slopes = [math.degrees(math.atan(slope)) for slope in (x, y)]
    return F.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=slopes, center=[0, 0])


def translated(image: Tensor, x: float, y: float) -> Tensor:
    return F.affine(image, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])


PEER = {
    Op.IDENTITY: lambda image, amount: image,
    Op.SHEAR_X: lambda image, amount: sheared(image, amount, 0.0),
    Op.SHEAR_Y: lambda image, amount: sheared(image, 0.0, amount),
    Op.TRANSLATE_X: lambda image, amount: translated(image, amount, 0.0),
    Op.TRANSLATE_Y: lambda image, amount: translated(image, 0.0, amount),
    Op.ROTATE: lambda image, amount: F.rotate(image, math.degrees(amount)),
    Op.BRIGHTNESS: lambda image, amount: F.adjust_brightness(image, 1 + amount),
    Op.CONTRAST: lambda image, amount: F.adjust_contrast(image, 1 + amount),
    Op.POSTERIZE: lambda image, amount: F.posterize(image, int(amount)),
    Op.SOLARIZE: lambda image, amount: F.solarize(image, amount),
    Op.AUTO_CONTRAST: lambda image, amount: F.autocontrast(image),
    Op.EQUALIZE: lambda image, amount: F.equalize(image),
    Op.COLOR: lambda image, amount: F.adjust_saturation(image, 1 + amount),
    Op.SHARPNESS: lambda image, amount: F.adjust_sharpness(image, 1 + amount),
}
EXACT = {Op.IDENTITY, Op.TRANSLATE_X, Op.TRANSLATE_Y, Op.POSTERIZE, Op.SOLARIZE, Op.EQUALIZE}
NEAREST = {Op.SHEAR_X, Op.SHEAR_Y, Op.ROTATE}  # a pixel on the border of two may be taken from either


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("level", [0, 11, NUM_LEVELS - 1])
@pytest.mark.parametrize("op", Op)
def test_an_operation_is_torchvisions_within_rounding(op, level, sign):
    uniforms = draws(len(IMAGES), op, level, sign)
    _, amounts = drawn_ops(uniforms)
    ours = trivial_augment(IMAGES.clone(), uniforms).int()
    theirs = torch.stack([PEER[op](image.permute(2, 0, 1), float(amounts[0])) for image in IMAGES]).permute(0, 2, 3, 1)
    difference = (ours - theirs.int()).abs()
    if op in EXACT:
        assert difference.max() == 0
    elif op in NEAREST:
        assert (difference > 0).float().mean() < 0.02
    else:
        assert difference.max() <= 2


def test_strengths_are_those_of_torchvisions_wide_table():
    from torchvision.transforms import TrivialAugmentWide

    theirs = TrivialAugmentWide()._augmentation_space(NUM_LEVELS)
    names = {name.replace("_", "").lower(): name for name in Op.__members__}
    assert {name.lower() for name in theirs} == set(names)
    for name, (amounts, is_signed) in theirs.items():
        op = Op[names[name.lower()]]
        for sign in (-1, 1):
            ours = np.array([drawn_ops(draws(1, op, level, sign))[1][0] for level in range(NUM_LEVELS)])
            ours = np.degrees(ours) if op == Op.ROTATE else ours
            expected = np.broadcast_to(amounts.numpy(), NUM_LEVELS) * (sign if is_signed else 1)
            whole_pixels = op in (Op.TRANSLATE_X, Op.TRANSLATE_Y)  # cut off when they are applied
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1.0 if whole_pixels else 1e-5, err_msg=name)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_rand_augments_strengths_are_those_of_torchvisions_table(magnitude):
    from torchvision.transforms import RandAugment

    H, W = 32, 40
    theirs = RandAugment()._augmentation_space(NUM_LEVELS, (H, W))
    names = {name.replace("_", "").lower(): name for name in Op.__members__}
    assert {name.lower() for name in theirs} == set(names)
    for name, (amounts, is_signed) in theirs.items():
        op = Op[names[name.lower()]]
        for sign in (-1, 1):
            drawn = np.array([(op + 0.5) / len(Op)]), np.array([0.25 if sign < 0 else 0.75])
            _, [found] = rand_ops(*drawn, magnitude, H, W)
            expected = float(np.broadcast_to(amounts.numpy(), NUM_LEVELS)[magnitude]) * (sign if is_signed else 1)
            found = math.degrees(found) if op == Op.ROTATE else found
            whole_pixels = op in (Op.TRANSLATE_X, Op.TRANSLATE_Y)
            assert found == pytest.approx(expected, rel=1e-5, abs=1.0 if whole_pixels else 1e-5), name


def test_rand_augment_applies_two_operations_that_are_drawn_apart():
    uniforms = EpochTable.draw(0, 0, 1).uniforms(0, 64)
    images = smooth_images(64, 32, 32)
    found = rand_augment(images.clone(), uniforms, 9)
    expected = images.clone()
    for op, sign in ((Draw.AUTO_OP, Draw.AUTO_SIGN), (Draw.AUTO_OP_2, Draw.AUTO_SIGN_2)):
        ops, amounts = rand_ops(uniforms[:, op], uniforms[:, sign], 9, 32, 32)
        for place in range(64):  # one by one, by TrivialAugment's own operations
            apply = {**dict.fromkeys(MOVES, moved), **dict.fromkeys(TONES, retoned), **dict.fromkeys(BLENDS, blended)}
            if ops[place] in apply:
                part = slice(place, place + 1)
                expected[part] = apply[ops[place]](expected[part], ops[part], amounts[part])
    assert torch.equal(found, expected)
    first, second = (uniforms[:, column] for column in (Draw.AUTO_OP, Draw.AUTO_OP_2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3
    assert not torch.equal(rand_augment(images.clone(), uniforms, 20), found)


def test_color_jitter_is_torchvisions_adjustments_one_after_the_other():
    uniforms = EpochTable.draw(0, 0, len(IMAGES)).uniforms(0, len(IMAGES))
    found = color_jitter(IMAGES.clone(), uniforms, 0.4)
    for image, row, jittered in zip(IMAGES, uniforms, found, strict=True):
        factors = 1 + 0.4 * (2 * row[[Draw.BRIGHTNESS, Draw.CONTRAST, Draw.SATURATION]] - 1)
        expected = image.permute(2, 0, 1)
        for adjust, factor in zip(ADJUSTMENTS, factors.tolist(), strict=True):
            expected = adjust(expected, factor)
        difference = (jittered.permute(2, 0, 1).int() - expected.int()).abs().max()
        assert difference <= 4  # theirs cut off, and multiply that by up to 1.4 twice
    assert not torch.equal(found, IMAGES)


def test_color_jitter_changes_images_in_training_and_no_other_draw(tmp_path):
    data = cached(ImageFolder(draw_folder(tmp_path, {"train": {"cat": 8, "dog": 8}}), "train", 32))
    pixels = Pixels(data, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), torch.device("cpu"))

    def batch(**augment) -> Tensor:
        settings = AugmentSettings(hflip=0.5, crop_padding=4, **augment).resolved(32)
        return (
            TrainingBatches(data, np.arange(16), pixels, settings, batch_size=16, seed=0, epochs=1).batch(0, 0).images
        )

    plain, jittered = batch(), batch(color_jitter=0.5)
    assert not torch.equal(plain, jittered)
    correlation = np.corrcoef(plain.flatten(1).mean(dim=1), jittered.flatten(1).mean(dim=1))[0, 1]
    assert correlation > 0.3  # the same images, cut in the same way


def test_operations_and_levels_are_drawn_equally_often():
    uniforms = EpochTable.draw(0, 0, 1).uniforms(0, 28_000)
    ops, amounts = drawn_ops(uniforms)
    assert np.bincount(ops, minlength=len(Op)) == pytest.approx(2000, rel=0.1)
    assert len(np.unique(np.abs(amounts[ops == Op.ROTATE]))) == NUM_LEVELS
    assert abs((amounts[ops == Op.ROTATE] > 0).mean() - 0.5) < 0.05


@pytest.mark.parametrize("op", Op)
def test_smaller_images_are_translated_by_fewer_pixels_and_else_changed_as_much(op):
    images, uniforms = smooth_images(4, 32, 32), draws(4, op, NUM_LEVELS - 1, 1)
    whole, found = trivial_augment(images.clone(), uniforms), trivial_augment(images.clone(), uniforms, 0.25)
    sides = {Op.TRANSLATE_X: (8.0, 0.0), Op.TRANSLATE_Y: (0.0, 8.0)}
    expected = translated(images.permute(0, 3, 1, 2), *sides[op]).permute(0, 2, 3, 1) if op in sides else whole
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(32, 32), (7, 5), (2, 2), (1, 1)])
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(size):
    images = smooth_images(64, *size)
    uniforms = EpochTable.draw(0, 0, 1).uniforms(0, 64)
    whole = trivial_augment(images.clone(), uniforms)
    for part in (np.arange(10), np.arange(63, 30, -2), np.array([5, 5, 7])):
        assert torch.equal(trivial_augment(images[part], uniforms[part]), whole[part])
    assert whole.shape == images.shape
    assert whole.dtype == torch.uint8


@pytest.mark.parametrize("op", Op)
def test_one_color_and_the_extremes_survive_every_operation(op):
    flat = torch.full((2, 8, 8, 3), 77, dtype=torch.uint8)
    extreme = torch.tensor([0, 255], dtype=torch.uint8)[torch.randint(2, (2, 8, 8, 3))]
    for images in (flat, extreme):
        for level in (0, NUM_LEVELS - 1):
            found = trivial_augment(images.clone(), draws(2, op, level, 1))
            assert found.shape == images.shape
            if level == 0 and op not in (Op.AUTO_CONTRAST, Op.EQUALIZE, Op.SOLARIZE):
                assert torch.equal(found, images)
    if op in (Op.AUTO_CONTRAST, Op.EQUALIZE, Op.SHARPNESS, Op.COLOR):
        assert torch.equal(trivial_augment(flat.clone(), draws(2, op, NUM_LEVELS - 1, 1)), flat)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_computes_what_the_cpu_computes():
    images = smooth_images(256, 32, 32)
    uniforms = EpochTable.draw(0, 0, 1).uniforms(0, 256)
    expected = trivial_augment(images.clone(), uniforms).int()
    found = trivial_augment(images.cuda(), uniforms).cpu().int()
    assert ((found - expected).abs() > 1).float().mean() < 1e-3
