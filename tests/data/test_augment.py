import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from volo.data.augment import ERASED_AREA, crop_and_flip, erase, erased_boxes, normalize
from volo.data.epoch import NUM_UNIFORMS, Draw, EpochTable
from volo.data.mixing import mix, one_hot, plan_mix


def uniforms(rows: int, **columns: float) -> torch.Tensor:
    values = torch.full((rows, NUM_UNIFORMS), 0.5)
    for name, value in columns.items():
        values[:, Draw[name]] = value
    return values


IMAGES = torch.arange(2 * 6 * 8 * 3, dtype=torch.uint8).reshape(2, 6, 8, 3)


def test_the_middle_draw_leaves_an_image_as_it_is():
    assert torch.equal(crop_and_flip(IMAGES, torch.tensor([1]), uniforms(1), padding=2, hflip=0.0)[0], IMAGES[1])


def test_a_flip_mirrors_columns():
    flipped = crop_and_flip(IMAGES, torch.tensor([0]), uniforms(1, FLIP=0.1), padding=0, hflip=0.5)[0]
    assert torch.equal(flipped, IMAGES[0].flip(1))


@given(crop_y=st.floats(0, 0.999), crop_x=st.floats(0, 0.999), flip=st.floats(0, 0.999), padding=st.integers(0, 4))
def test_crops_equal_reflect_padding_and_slicing(crop_y, crop_x, flip, padding):
    draws = uniforms(1, CROP_Y=crop_y, CROP_X=crop_x, FLIP=flip)
    found = crop_and_flip(IMAGES, torch.tensor([1]), draws, padding, hflip=0.5)[0]
    top, left = (int(draws[0, column] * (2 * padding + 1)) for column in (Draw.CROP_Y, Draw.CROP_X))
    padded = np.pad(IMAGES[1].numpy(), ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    expected = padded[top : top + 6, left : left + 8]
    assert np.array_equal(found.numpy(), expected[:, ::-1] if flip < 0.5 else expected)


def test_normalisation_is_that_of_channel_first_tensors():
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    expected = (IMAGES.permute(0, 3, 1, 2) / 255 - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(normalize(IMAGES, mean, std), expected)


def test_as_many_boxes_as_asked_are_erased_and_each_is_a_rectangle():
    uniforms = EpochTable.draw(0, 0, 1).uniforms(0, 2000)
    erased = erase(torch.ones(2000, 3, 32, 32), uniforms, probability=0.25) == 0
    assert torch.equal(erased.all(dim=1), erased.any(dim=1))
    erased = erased[:, 0]
    sizes = erased.sum(dim=(1, 2))
    assert abs((sizes > 0).float().mean() - 0.25) < 0.03
    assert torch.equal(sizes, erased.any(dim=1).sum(dim=1) * erased.any(dim=2).sum(dim=1))
    assert torch.equal(erased.any(dim=(1, 2)), torch.from_numpy(uniforms[:, Draw.ERASE] < 0.25))


def test_boxes_have_the_area_and_shape_of_the_paper_and_can_be_anywhere():
    top, bottom, left, right = erased_boxes(EpochTable.draw(0, 0, 1).uniforms(0, 20_000), 1.0, 64, 64)
    height, width = bottom - top, right - left
    share = height * width / 64**2
    assert ((share > 0.9 * ERASED_AREA[0]) & (share < 1.1 * ERASED_AREA[1])).all()
    assert abs(share.mean() - np.mean(ERASED_AREA)) < 0.01
    ratio = np.log(height / width)
    assert abs(ratio.mean()) < 0.02
    assert np.abs(ratio).max() < np.log(1 / 0.3) + 0.2
    for first, last in ((top, bottom), (left, right)):
        assert (first.min(), last.max()) == (0, 64)
        assert abs((first + last).mean() / 2 - 32) < 0.5


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (30, 2)])
def test_a_box_stays_within_a_small_image(size):
    top, bottom, left, right = erased_boxes(EpochTable.draw(0, 0, 1).uniforms(0, 500), 1.0, *size)
    assert ((top >= 0) & (top < bottom) & (bottom <= size[0])).all()
    assert ((left >= 0) & (left < right) & (right <= size[1])).all()


BATCH = 64


def mixed(mixup_alpha: float, cutmix_alpha: float, mix_prob: float = 1.0):
    """A batch in which image i is the constant i and has class i, after mixing."""
    table = EpochTable.draw(0, 0, BATCH, mixup_alpha, cutmix_alpha)
    plan = plan_mix(table, table.uniforms(0, BATCH), 0, 0, BATCH, mix_prob)
    images = torch.arange(float(BATCH))[:, None, None, None].expand(BATCH, 3, 32, 32)
    targets = torch.eye(BATCH)
    return plan, *mix(images, images[plan.partner], targets, targets[plan.partner], plan)


@pytest.mark.parametrize(("mixup_alpha", "cutmix_alpha"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_say_how_much_of_each_image_is_in_the_mixture(mixup_alpha, cutmix_alpha):
    _, images, targets = mixed(mixup_alpha, cutmix_alpha)
    assert torch.allclose(targets.sum(dim=1), torch.ones(BATCH))
    expected = targets @ torch.arange(float(BATCH))
    assert torch.allclose(images.mean(dim=(1, 2, 3)), expected, atol=1e-3)


def test_cutmix_pastes_one_box_and_mixup_none():
    plan, images, _ = mixed(mixup_alpha=0.8, cutmix_alpha=1.0)
    for image, partner, is_cut, number in zip(images, plan.partner, plan.is_cut, range(BATCH), strict=True):
        if is_cut:
            assert set(image.unique().tolist()) <= {float(number), float(partner)}
            rows, cols = torch.nonzero(image[0] != number, as_tuple=True)
            if len(rows) and partner != number:
                assert len(rows) == (rows.max() - rows.min() + 1) * (cols.max() - cols.min() + 1)
        else:
            assert len(image.unique()) == 1
    assert 0.2 < plan.is_cut.mean() < 0.8


def test_samples_have_partners_and_coefficients_of_their_own():
    plan, *_ = mixed(mixup_alpha=1.0, cutmix_alpha=0.0)
    assert len(set(plan.weight.tolist())) == BATCH
    assert len(set(plan.partner.tolist())) > BATCH / 2


def test_mix_prob_is_the_fraction_of_mixed_samples():
    plan, images, _ = mixed(mixup_alpha=1.0, cutmix_alpha=0.0, mix_prob=0.25)
    is_mixed = plan.weight < 1
    assert 0.1 < is_mixed.mean() < 0.4
    assert torch.equal(images[~is_mixed, 0, 0, 0], torch.arange(float(BATCH))[~is_mixed])


def test_label_smoothing_spreads_its_mass_over_all_classes():
    assert torch.allclose(one_hot(torch.tensor([1]), 4, 0.2), torch.tensor([[0.05, 0.85, 0.05, 0.05]]))
