import json

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from volo.analysis.evaluate import (
    ANSWERED,
    ClassScore,
    Predictions,
    balanced_accuracy,
    class_scores,
    classification_metrics,
    coarse_accuracy,
    coverages,
)

NAMES = ("cat", "dog", "bird")


def drawn(num_samples=200, num_classes=7, seed=0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_samples)
    logits = generator.normal(size=(num_samples, num_classes)) * 2
    return Predictions("test", tuple(f"class {i}" for i in range(num_classes)), labels, logits.astype(np.float32))


def test_metrics_agree_with_torch():
    predictions = drawn()
    logits, labels = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)
    metrics = classification_metrics(predictions)
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert metrics["acc1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert metrics["acc5"] == pytest.approx((logits.topk(5).indices == labels[:, None]).any(1).double().mean().item())
    torch.testing.assert_close(torch.from_numpy(predictions.probabilities), logits.double().softmax(1))


def test_metrics_are_plain_values_that_json_takes():
    metrics = classification_metrics(drawn())
    assert {type(value) for value in metrics.values()} == {str, int, float}
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["split"] == "test" and metrics["num_samples"] == 200


def test_top5_of_fewer_than_five_classes_takes_all():
    assert classification_metrics(drawn(num_classes=3))["acc5"] == 1.0


def test_equal_logits_count_for_the_first_class_alone():
    constant = Predictions("test", tuple("abcdefg"), np.arange(7), np.zeros((7, 7), np.float32))
    metrics = classification_metrics(constant)
    assert constant.predicted.tolist() == [0] * 7
    assert metrics["acc1"] == pytest.approx(1 / 7) and metrics["acc5"] == pytest.approx(5 / 7)


def test_loss_is_exact_where_the_probability_underflows():
    predictions = Predictions("test", NAMES, [1], [[2000.0, 0.0, 0.0]])
    assert predictions.probabilities[0, 1] == 0.0
    assert classification_metrics(predictions)["loss"] == pytest.approx(2000.0)


def test_confidence_is_the_probability_of_the_predicted_class():
    predictions = drawn()
    chosen = predictions.probabilities[np.arange(200), predictions.predicted]
    np.testing.assert_array_equal(predictions.confidence, chosen)
    assert predictions.probabilities is predictions.probabilities


def test_a_class_without_images_has_no_accuracy_rather_than_none_right():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]
    scores = class_scores(Predictions("test", NAMES, [0, 0, 0, 1], logits))
    assert scores == {"cat": (3, 2, 2), "dog": (1, 0, 1), "bird": (0, 0, 1)}
    assert [score.accuracy for score in scores.values()] == [pytest.approx(2 / 3), 0.0, None]
    assert ClassScore(num_images=3, num_right=2, num_predicted=2) == scores["cat"]
    assert [score.precision for score in scores.values()] == [1.0, 0.0, 0.0]
    assert [score.f1 for score in scores.values()] == [pytest.approx(0.8), 0.0, 0.0]
    assert ClassScore(5, 0, 0).precision is None and ClassScore(0, 0, 0).f1 is None
    assert balanced_accuracy(scores) == pytest.approx(1 / 3)  # of cat and dog


def test_scores_of_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 5, 300), rng.normal(size=(300, 5)).astype(np.float32)
    logits[np.arange(300), labels] += 1
    scores = class_scores(found := Predictions("test", [*"abcde"], labels, logits))
    precision, recall, f1, support = precision_recall_fscore_support(labels, found.predicted, labels=range(5))
    for number, score in enumerate(scores.values()):
        assert score.num_images == support[number] and (score.accuracy or 0) == pytest.approx(recall[number])
        assert score.precision == pytest.approx(precision[number]) and score.f1 == pytest.approx(f1[number])
    assert balanced_accuracy(scores) == pytest.approx(balanced_accuracy_score(labels, found.predicted))


def test_the_surest_answers_are_counted_by_threshold():
    confidence = np.linspace(0.99, 0.51, 100)
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1)).astype(np.float32)
    labels = (np.arange(100) >= 60).astype(int)  # the sixty surest are right
    found = coverages(Predictions("test", ("a", "b"), labels, logits))
    assert [one.answered for one in found] == list(ANSWERED)
    assert [one.acc1 for one in found] == pytest.approx([0.6, 60 / 95, 60 / 90, 0.75, 60 / 70, 1])
    least = [confidence[round(100 * share) - 1] for share in ANSWERED]
    assert [one.threshold for one in found] == pytest.approx(least, abs=1e-6)


def test_coarse_accuracy_forgives_confusion_within_a_superclass():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    predictions = Predictions("test", NAMES, [0, 0, 0, 2], logits)
    assert coarse_accuracy(predictions, np.array([7, 7, 4])) == 3 / 4
    assert coarse_accuracy(predictions, np.array([0, 1, 2])) == predictions.correct.mean()


def test_other_types_become_int64_and_float32():
    predictions = Predictions("test", ["cat", "dog"], np.array([0, 1], np.uint8), np.zeros((2, 2), np.float16))
    assert (predictions.labels.dtype, predictions.logits.dtype) == (np.int64, np.float32)
    assert predictions.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "labels", "logits", "message"),
    [
        (NAMES, [], np.zeros((0, 3)), "at least one image"),
        (NAMES, [[0]], np.zeros((1, 3)), "labels must be"),
        (NAMES, [0], np.zeros((2, 3)), r"\(2, 3\), 1 labels, 3 class_names"),
        (NAMES[:2], [0], np.zeros((1, 3)), "2 class_names"),
        (("cat", "cat"), [0], np.zeros((1, 2)), "'cat' 2 times"),
        (NAMES, [0.0], np.zeros((1, 3)), "float64; convert"),
        (NAMES, [3], np.zeros((1, 3)), r"\[0, 3\), got 3 to 3"),
        (NAMES, [-1], np.zeros((1, 3)), "got -1 to -1"),
        (NAMES, [0, 0], [[0, 0, np.nan], [0, 0, 0]], "1 of 2 images"),
        (NAMES, [0], [[0, 0, np.inf]], "finite"),
        (NAMES, [0], [[0, 0, 1e39]], "finite in float32"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_values(names, labels, logits, message):
    with pytest.raises(ValueError, match=message):
        Predictions("test", names, np.asarray(labels), np.asarray(logits))


@pytest.mark.parametrize("shape", [(3, 5), (2,), (2, 5, 1)])
def test_features_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"features must be \(images, features\), got .* for 2 images"):
        Predictions("test", ("a", "b"), [0, 1], np.zeros((2, 2)), np.zeros(shape))
