import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volo.data.epoch import NUM_UNIFORMS, EpochTable, worker_share


@given(start=st.integers(0, 500), length=st.integers(0, 60), cut=st.integers(0, 60))
def test_a_row_does_not_depend_on_the_range_it_is_drawn_in(start, length, cut):
    table = EpochTable.draw(seed=3, epoch=5, num_images=8)
    whole = table.uniforms(start, start + length)
    middle = start + min(cut, length)
    parts = [table.uniforms(start, middle), table.uniforms(middle, start + length)]
    assert whole.shape == (length, NUM_UNIFORMS)
    assert np.array_equal(whole, np.concatenate(parts))


def test_every_image_occurs_once_per_epoch_in_a_new_order_each_time():
    first, second, again = (EpochTable.draw(0, epoch, 1000).order for epoch in (0, 1, 0))
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)


def test_uniforms_fill_the_unit_interval_and_columns_are_independent():
    uniforms = EpochTable.draw(0, 0, 1).uniforms(0, 20_000)
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert np.allclose(uniforms.mean(axis=0), 0.5, atol=0.02)
    correlation = np.corrcoef(uniforms.T) - np.eye(NUM_UNIFORMS)
    assert np.abs(correlation).max() < 0.05


def test_seeds_and_epochs_draw_differently():
    rows = [EpochTable.draw(seed, epoch, 1).uniforms(0, 1) for seed in (0, 1) for epoch in (0, 1)]
    assert len({row.tobytes() for row in rows}) == 4


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_coefficients_have_the_moments_of_their_beta_distribution(alpha):
    table = EpochTable.draw(0, 0, 50_000, mixup_alpha=alpha)
    assert table.cutmix is None
    assert abs(table.mixup.mean() - 0.5) < 0.01
    assert abs(table.mixup.var() - 1 / (4 * (2 * alpha + 1))) < 0.005


@given(start=st.integers(0, 100), length=st.integers(0, 100), world_size=st.integers(1, 9))
def test_shares_cover_the_batch_once_and_differ_by_one_at_most(start, length, world_size):
    shares = [worker_share(start, start + length, rank, world_size) for rank in range(world_size)]
    assert shares[0][0] == start
    assert shares[-1][1] == start + length
    assert all(left[1] == right[0] for left, right in itertools.pairwise(shares))
    sizes = [stop - first for first, stop in shares]
    assert max(sizes) - min(sizes) <= 1
