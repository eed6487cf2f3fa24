"""Balancing helps the classes of which there are few images."""

import numpy as np
import pytest

import volo
from tests.outcomes.digits import settings_of, train

FEW = range(5, 10)  # digits of which one image in twelve is kept


@pytest.fixture(scope="module")
def uneven(digits, tmp_path_factory):
    root = tmp_path_factory.mktemp("uneven")
    for file in sorted(digits.rglob("*.png")):
        split, name = file.parts[-3:-1]
        number = sum(1 for _ in (root / split / name).glob("*.png")) if (root / split / name).is_dir() else 0
        place = root / split / name / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if split == "test" or int(name) not in FEW or number < 12:
            place.write_bytes(file.read_bytes())
    return root


def recall(run_dir, images) -> float:
    """The mean over the small classes."""
    classifier = volo.load(run_dir)
    found = [
        np.mean([classifier.predict(file)[0][0] == str(name) for file in (images / "test" / str(name)).glob("*.png")])
        for name in FEW
    ]
    return float(np.mean(found))


@pytest.mark.slow
def test_small_classes_are_recognized_more_often(uneven, tmp_path):
    found = {
        balance: recall(train(settings_of(uneven, tmp_path, balance, augment=dict(balance=balance))), uneven)
        for balance in ("none", "weights", "sampling")
    }
    assert min(found["weights"], found["sampling"]) > found["none"] + 0.05, found
