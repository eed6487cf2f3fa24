import numpy as np
import pytest
from PIL import Image

from volo.analysis.confusion import confusion_matrix, most_confused, save_confusion
from volo.analysis.evaluate import Predictions


def predicting(labels, predicted, names) -> Predictions:
    return Predictions("test", tuple(names), np.asarray(labels), np.eye(len(names), dtype=np.float32)[predicted])


def drawn(num_classes: int, num_samples: int = 500) -> Predictions:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, num_classes, (2, num_samples))
    predicted = np.where(generator.random(num_samples) < 0.7, labels, predicted)
    return predicting(labels, predicted, [f"class_{i}" for i in range(num_classes)])


def test_rows_are_the_truth_and_columns_the_prediction():
    matrix = confusion_matrix(predicting([0, 0, 1, 2], [0, 1, 1, 1], "abc"))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert matrix.dtype == np.int64


def test_matrix_holds_every_image_and_its_trace_every_right_one():
    predictions = drawn(10)
    matrix = confusion_matrix(predictions)
    assert matrix.sum() == 500 and matrix.trace() == predictions.correct.sum()


def test_most_confused_are_sorted_by_count_then_share_and_never_right():
    matrix = np.array([[90, 6, 4], [6, 14, 0], [0, 4, 96]])
    pairs = most_confused(matrix, ("a", "b", "c"))
    assert [(p.true, p.predicted, p.num_images) for p in pairs] == [
        ("b", "a", 6), ("a", "b", 6), ("a", "c", 4), ("c", "b", 4),
    ]  # fmt: skip
    assert pairs[0].share == pytest.approx(0.3) and pairs[1].share == pytest.approx(0.06)
    assert most_confused(matrix, ("a", "b", "c"), limit=1) == pairs[:1]


def test_perfect_predictions_have_no_confused_pairs():
    assert most_confused(np.diag([3, 0, 2]), ("a", "b", "c")) == []


def test_matrix_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 3\) for 2 class_names"):
        most_confused(np.eye(3), ("a", "b"))


@pytest.mark.parametrize("num_classes", [1, 2, 10, 150])
def test_files_are_written_for_any_number_of_classes(tmp_path, num_classes):
    predictions = drawn(num_classes)
    pairs = save_confusion(predictions, tmp_path / "analysis")
    matrix = confusion_matrix(predictions)
    np.testing.assert_array_equal(np.load(tmp_path / "analysis" / "confusion_matrix.npy"), matrix)
    assert pairs == most_confused(matrix, predictions.class_names)
    with Image.open(tmp_path / "analysis" / "confusion_matrix.png") as picture:
        assert picture.format == "PNG" and max(picture.size) < 4000
    assert sorted(path.name for path in (tmp_path / "analysis").iterdir()) == [
        "confusion_matrix.npy", "confusion_matrix.png",
    ]  # fmt: skip


def test_names_may_look_like_mathtext_html_or_another_script(tmp_path):
    names = (r"$\frac{$", "<b>dog</b>", "狼犬", "a\nb", "x" * 200)
    pairs = save_confusion(predicting([0, 1, 2, 3], [1, 2, 3, 4], names), tmp_path)
    assert [pair.true for pair in pairs] == list(names[:4])
