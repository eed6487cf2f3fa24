"""Labels that were made wrong on purpose are found, with fewer right ones beside them than by their loss."""

import numpy as np

from volo.analysis.doubts import doubtful_labels
from volo.analysis.evaluate import Predictions

NUM, CLASSES, WRONG = 2000, 5, 0.05
SURENESS = np.array([6.0, 5.0, 4.0, 1.5, 1.0])  # of each class: hard images of the last ones have large losses too


def mislabeled(seed: int) -> tuple[Predictions, np.ndarray]:
    """Predictions of a model with uneven classes, and (N,) bool, which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, NUM)
    logits = rng.normal(size=(NUM, CLASSES))
    logits[np.arange(NUM), truth] += SURENESS[truth]
    is_wrong = rng.random(NUM) < WRONG
    labels = np.where(is_wrong, (truth + rng.integers(1, CLASSES, NUM)) % CLASSES, truth)
    return Predictions("test", [*"abcde"], labels, logits.astype(np.float32)), is_wrong


def test_most_of_the_list_is_wrong_and_most_wrong_labels_are_in_it():
    """Means over five models; as many images of the largest losses hold more right labels."""
    shares = []
    for seed in range(5):
        predictions, is_wrong = mislabeled(seed)
        found = doubtful_labels(predictions).places
        by_loss = np.argsort(-predictions.losses)[: len(found)]
        shares.append([is_wrong[found].mean(), is_wrong[found].sum() / is_wrong.sum(), is_wrong[by_loss].mean()])
    precision, recall, by_loss = np.mean(shares, axis=0)
    assert precision > 0.85 and recall > 0.6
    assert precision > by_loss + 0.03


def test_the_first_ones_are_the_surest():
    predictions, is_wrong = mislabeled(0)
    assert is_wrong[doubtful_labels(predictions).places[:20]].all()


def test_a_case_by_hand():
    """The images of class a get 0.67 for it on average, those of b 0.7. The third is labeled a, but gets 0.9 for b:
    1.29 thresholds of b and 0.15 of a. The last, labeled b, gets 0.4 for a."""
    shares = np.array([[0.95, 0.05], [0.95, 0.05], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6]])
    predictions = Predictions("test", ("a", "b"), [0, 0, 0, 1, 1], np.log(shares).astype(np.float32))
    places, suggested = doubtful_labels(predictions)
    assert places.tolist() == [2] and suggested.tolist() == [1]


def test_right_labels_of_a_sure_model_raise_no_doubt():
    logits = 9 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert len(doubtful_labels(Predictions("test", [*"abc"], [0, 1, 2, 0], logits)).places) == 0


def test_a_class_without_images_is_suggested_for_none():
    logits = np.array([[0, 0, 9]], np.float32)
    assert len(doubtful_labels(Predictions("test", [*"abc"], [0], logits)).places) == 0
