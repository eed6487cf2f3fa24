import numpy as np
import pytest
from PIL import Image

from volo.analysis.evaluate import Predictions
from volo.analysis.predictions import choose_images, save_prediction_grid

NAMES = ("apple", r"$\frac{$", "狼犬 " * 20, "<b>bear</b>", "x" * 100)


def drawn(num_samples=60, accuracy=0.5) -> Predictions:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, num_samples)
    predicted = np.where(np.arange(num_samples) < accuracy * num_samples, labels, (labels + 1) % 5)
    noise = generator.random((num_samples, 5)) * 0.5
    return Predictions("test", NAMES, labels, (np.eye(5)[predicted] * 3 + noise).astype(np.float32))


def noise_images(indices) -> np.ndarray:
    return np.stack([np.full((32, 32, 3), index % 256, np.uint8) for index in indices])


def test_half_of_the_images_are_wrong_ones_and_none_comes_twice():
    predictions = drawn()
    chosen = choose_images(predictions, 20)
    assert len(chosen["wrong"]) == len(chosen["right"]) == 10
    assert not predictions.correct[chosen["wrong"]].any() and predictions.correct[chosen["right"]].all()
    assert len({*chosen["wrong"], *chosen["right"]}) == 20


def test_each_part_is_sorted_by_falling_confidence():
    predictions = drawn()
    for part in choose_images(predictions, 20).values():
        assert (np.diff(predictions.confidence[part]) <= 0).all()


def test_the_seed_alone_decides_the_choice():
    assert choose_images(drawn(), 20, seed=3) == choose_images(drawn(), 20, seed=3)
    assert choose_images(drawn(), 20, seed=3) != choose_images(drawn(), 20, seed=4)


@pytest.mark.parametrize(
    ("accuracy", "num_images", "expected"),
    [(1, 9, (0, 9)), (0, 9, (9, 0)), (0.9, 8, (2, 6)), (0.1, 8, (6, 2)), (0.5, 1, (1, 0)), (0.5, 99, (10, 10))],
)
def test_what_one_part_lacks_the_other_gets(tmp_path, accuracy, num_images, expected):
    chosen = save_prediction_grid(drawn(20, accuracy), noise_images, tmp_path / "analysis", num_images)
    assert (len(chosen["wrong"]), len(chosen["right"])) == expected
    with Image.open(tmp_path / "analysis" / "predictions_grid.png") as picture:
        assert picture.format == "PNG" and picture.width <= 2000


def test_images_are_asked_for_once_and_for_the_chosen_indices_alone(tmp_path):
    calls = []
    chosen = save_prediction_grid(
        drawn(), lambda indices: calls.append(list(indices)) or noise_images(indices), tmp_path, num_images=6
    )
    assert calls == [chosen["wrong"] + chosen["right"]]


def test_small_images_keep_their_own_colours(tmp_path):
    """Shown as squares, without a blur between them: a pure red pixel stays pure red."""
    checks = np.zeros((32, 32, 3), np.uint8)
    checks[::2, ::2] = (255, 0, 0)
    save_prediction_grid(drawn(), lambda indices: np.stack([checks] * len(indices)), tmp_path, num_images=2)
    with Image.open(tmp_path / "predictions_grid.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(axis=1).sum() > 2000


@pytest.mark.parametrize(
    "pictures", [np.zeros((4, 3, 32, 32), np.uint8), np.zeros((4, 32, 32, 3)), np.zeros((3, 32, 32, 3), np.uint8)]
)
def test_images_of_another_shape_or_type_are_refused(tmp_path, pictures):
    with pytest.raises(ValueError, match=r"\(n, H, W, 3\) uint8"):
        save_prediction_grid(drawn(), lambda indices: pictures, tmp_path, num_images=4)


def test_a_grid_of_no_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        save_prediction_grid(drawn(), noise_images, tmp_path, num_images=0)
