"""What the pictures show, read from the figures before they become pixels."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from volo.analysis import calibration, confusion, predictions
from volo.analysis.calibration import reliability, save_calibration
from volo.analysis.confusion import save_confusion
from volo.analysis.evaluate import Predictions
from volo.analysis.predictions import save_prediction_grid

NAMES = ("ape", "bee", "cow")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved, in order."""
    figures = []
    for module in (calibration, confusion, predictions):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure) or path)
    return figures


def of_test(num_samples: int = 40, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, num_samples)  # never a cow
    return Predictions("test", NAMES, labels, generator.normal(size=(num_samples, 3)).astype(np.float32))


def test_the_confusion_matrix_is_drawn_with_the_truth_in_rows_and_empty_where_nothing_is_known(drawn, tmp_path):
    save_confusion(Predictions("test", NAMES, np.array([0, 0, 1]), np.eye(3)[[1, 0, 2]]), tmp_path)
    axes = drawn[0].axes[0]
    shares = axes.images[0].get_array()
    assert shares[:2].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    assert shares.mask.tolist() == [[False] * 3, [False] * 3, [True] * 3]
    assert axes.get_ylabel() == "true class" and axes.get_xlabel() == "predicted class"
    assert [label.get_text() for label in axes.get_yticklabels()] == [*NAMES]
    written = {tuple(text.xy): text.get_text() for text in axes.texts if not text.get_text().endswith("%")}
    assert written == {(1, 0): "1", (0, 0): "1", (2, 1): "1"}  # (column, row)


def test_each_image_of_the_grid_stands_above_its_own_truth_prediction_and_confidence(drawn, tmp_path):
    judged = of_test()

    def images(indices):
        return np.stack([np.full((8, 8, 3), index, np.uint8) for index in indices])

    chosen = save_prediction_grid(judged, images, tmp_path, num_images=12)
    shown = {}
    for axes in drawn[0].axes:
        if axes.images:
            index = int(axes.images[0].get_array()[0, 0, 0])
            shown[index] = [text.get_text() for text in axes.texts]
    assert shown.keys() == {*chosen["wrong"], *chosen["right"]}
    for index, lines in shown.items():
        true, predicted = NAMES[judged.labels[index]], NAMES[judged.predicted[index]]
        confidence = f"confidence {100 * judged.confidence[index]:.1f}%"
        assert lines == [f"true {true}", f"pred {predicted}", confidence]


def test_reliability_diagrams_show_the_accuracy_of_each_bin_before_and_after_the_temperature(drawn, tmp_path):
    judged = of_test()
    temperature = save_calibration(judged, Predictions("val", NAMES, *_right()), tmp_path)["temperature"]
    assert temperature != 1
    for figure, shown in zip(drawn, (judged, calibration.scaled(judged, temperature)), strict=True):
        bars = figure.axes[0].containers[0]
        bins = reliability(shown)
        np.testing.assert_allclose([bar.get_height() for bar in bars], np.nan_to_num(bins.accuracy))
        shares = [bar.get_height() for bar in figure.axes[1].containers[0]]
        np.testing.assert_allclose(shares, bins.count / 40)


def _right() -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are right more often than they are sure."""
    labels = np.arange(30) % 3
    return labels, np.eye(3)[np.where(np.arange(30) < 28, labels, 0)] * 0.5
