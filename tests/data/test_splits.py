import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volo.data.splits import split_train
from volo.errors import InputError

LABELS = np.repeat(np.arange(5), [100, 50, 20, 10, 3])


@given(fraction=st.floats(0.01, 0.9), seed=st.integers(0, 5))
def test_parts_are_disjoint_and_stratified(fraction, seed):
    split = split_train(LABELS, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(len(LABELS)))
    for name, size in enumerate([100, 50, 20, 10, 3]):
        assert (LABELS[split.val] == name).sum() == int(size * fraction + 1e-9)


def test_a_class_too_small_to_split_stays_in_train():
    split = split_train(LABELS, 0.1, seed=0)
    assert (LABELS[split.val] == 4).sum() == 0
    assert (LABELS[split.train] == 4).sum() == 3


def test_the_split_depends_on_its_seed_alone_and_its_hash_on_the_split():
    one, same, other = (split_train(LABELS, 0.2, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.val, same.val)
    assert one.digest() == same.digest() != other.digest()


def test_the_hash_is_the_same_on_every_machine():
    expected = "169e56e7e2dcd144fa9fdaff2e584e22"
    assert split_train(LABELS, 0.2, seed=1).digest()[:32] == expected


def test_a_subset_keeps_the_proportions_and_the_validation_images():
    whole, part = split_train(LABELS, 0.2, 0), split_train(LABELS, 0.2, 0, train_images=73)
    assert np.array_equal(whole.val, part.val)
    assert len(part.train) == 73
    assert set(part.train) <= set(whole.train)
    assert np.bincount(LABELS[part.train]).tolist() == [40, 20, 8, 4, 1]


def test_without_validation_all_images_are_trained_on():
    assert len(split_train(LABELS, 0.0, 0).val) == 0


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (dict(val_fraction=0.001), "--val-fraction must hold out at least one image"),
        (dict(val_fraction=0.1, train_images=1000), "--train-images must not exceed"),
    ],
)
def test_what_cannot_be_split_is_refused(arguments, rule):
    with pytest.raises(InputError, match=rule):
        split_train(LABELS, seed=0, **arguments)
