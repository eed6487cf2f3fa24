"""Labels that were made wrong on purpose are found, with fewer right ones beside them than by their loss."""

from dataclasses import replace

import numpy as np
import pytest

from volo.analysis import doubts, steps
from volo.analysis.doubts import doubtful_labels, second_opinion
from volo.analysis.evaluate import Predictions
from volo.analysis.steps import Findings
from volo.analysis.subject import Subject, open_view
from volo.data import shapes
from volo.model.build import model_for
from volo.runs.model_file import Description
from volo.settings.config import build_settings
from volo.tables import read_table

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


def with_features(seed: int) -> tuple[Predictions, np.ndarray]:
    """The same where the model's head knows half of what its features show."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, NUM)
    shown = rng.normal(size=(NUM, 2 * CLASSES))
    shown[np.arange(NUM), truth] += 2.5
    shown[np.arange(NUM), CLASSES + truth] += 2.5
    is_wrong = rng.random(NUM) < WRONG
    labels = np.where(is_wrong, (truth + rng.integers(1, CLASSES, NUM)) % CLASSES, truth)
    features = shown.astype(np.float32)
    return Predictions("test", [*"abcde"], labels, 2 * features[:, :CLASSES], features), is_wrong


def test_the_second_judge_finds_labels_that_the_model_misses():
    """Means over five models: of both judges' list, of the model's alone, and of as many of the largest losses."""
    shares = []
    for seed in range(5):
        predictions, is_wrong = with_features(seed)
        both, alone = (doubtful_labels(each).places for each in (predictions, replace(predictions, features=None)))
        by_loss = np.argsort(-predictions.losses)[: len(both)]
        lists = (both, alone, by_loss)
        shares.append([(is_wrong[found].mean(), is_wrong[found].sum() / is_wrong.sum()) for found in lists])
    both, alone, by_loss = np.mean(shares, axis=0)
    assert (both > by_loss + 0.05).all()
    assert both[0] > alone[0] + 0.1 and both[1] > 0.75


def test_the_second_opinion_is_of_a_judge_that_has_not_seen_the_image():
    """Features that name each image would give every label away; noise tells nothing."""
    rng = np.random.default_rng(0)
    labels, features = rng.integers(0, 2, 100), rng.normal(size=(100, 200)).astype(np.float32)
    predictions = Predictions("test", ("a", "b"), labels, np.zeros((100, 2), np.float32), features)
    opinion = second_opinion(predictions)
    assert np.allclose(opinion.sum(axis=1), 1)
    assert 0.35 < (opinion.argmax(axis=1) == labels).mean() < 0.65


def test_images_of_rare_classes_keep_the_models_opinion():
    predictions, _ = with_features(0)
    kept = np.concatenate([np.flatnonzero(predictions.labels != 4), np.flatnonzero(predictions.labels == 4)[:4]])
    labels, logits, features = (each[kept] for each in (predictions.labels, predictions.logits, predictions.features))
    few = replace(predictions, labels=labels, logits=logits, features=features)
    opinion = second_opinion(few)
    assert np.array_equal(opinion[-4:], few.probabilities[-4:])
    assert (opinion[:-4, 4] == 0).all() and np.allclose(opinion.sum(axis=1), 1)


def test_of_too_many_images_the_model_judges_alone(monkeypatch):
    predictions, _ = with_features(0)
    monkeypatch.setattr(doubts, "MOST", NUM * 2 * CLASSES * CLASSES - 1)
    assert second_opinion(predictions) is predictions.probabilities


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
    """The images of class a get 0.61 for it on average, those of b 0.7. The fourth is labeled a, but gets 0.97 for b:
    1.39 thresholds of b and 0.049 of a. The third gets 0.31 of a's, which is not doubted."""
    shares = np.array([[0.95, 0.05], [0.95, 0.05], [0.19, 0.81], [0.03, 0.97], [0.95, 0.05], [0.2, 0.8], [0.4, 0.6]])
    predictions = Predictions("test", ("a", "b"), [0, 0, 0, 0, 0, 1, 1], np.log(shares).astype(np.float32))
    places, suggested, probabilities = doubtful_labels(predictions)
    assert places.tolist() == [3] and suggested.tolist() == [1]
    assert probabilities == pytest.approx([0.97])


def test_an_image_that_looks_like_no_class_raises_no_doubt():
    """The last is as good as excluded from its class, but gets less than half of the threshold of any other."""
    shares = np.full((9, 9), 0.001)
    np.fill_diagonal(shares, 0.992)
    unlike = np.array([0.001, *8 * [0.999 / 8]])
    logits = np.log(np.stack([*shares, unlike])).astype(np.float32)
    predictions = Predictions("test", [*"abcdefghi"], [*range(9), 0], logits)
    assert len(doubtful_labels(predictions).places) == 0


def test_a_class_of_which_the_model_is_never_sure_is_not_suggested_for_others():
    """The image labeled c gets 0.01 for it, so the second, of 0.04 for c, has four thresholds of c, and 1.2 of b."""
    shares = np.array(
        [[0.98, 0.01, 0.01], [0.02, 0.94, 0.04], [0.2, 0.79, 0.01], [0.2, 0.79, 0.01], [0.98, 0.01, 0.01]]
    )
    predictions = Predictions("test", [*"abc"], [0, 0, 2, 1, 0], np.log(shares).astype(np.float32))
    places, suggested, _ = doubtful_labels(predictions)
    assert places.tolist() == [1] and suggested.tolist() == [1]


def test_a_class_that_gets_nothing_at_all_is_no_error():
    """The first is labeled a, which the model excludes."""
    logits = np.array([[-2000, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
    places, suggested, _ = doubtful_labels(Predictions("test", [*"abc"], [0, 1, 2], logits))
    assert places.tolist() == [0] and suggested.tolist() == [1]


def test_labels_of_drawn_images_are_not_doubted(tmp_path):
    """Not even where the model is sure of another class."""
    settings = build_settings({"data": {"dataset": "shapes"}}).resolved()
    description = Description(settings, shapes.CLASS_NAMES, "hash", step=1, epoch=1)
    view = open_view(description, "test")
    logits = 9 * np.eye(len(shapes.CLASS_NAMES), dtype=np.float32)[view.labels]
    logits[:10] = np.roll(logits[:10], 1, axis=1)
    predictions = Predictions("test", shapes.CLASS_NAMES, view.labels, logits)
    subject = Subject(model_for(settings, len(shapes.CLASS_NAMES)), description)
    findings = Findings(subject, view, predictions, lambda *_: logits, tmp_path)
    steps.predictions(findings)
    assert len(doubtful_labels(predictions).places) == 10
    assert findings.doubts is not None and len(findings.doubts.places) == 0
    assert all(not row["label_may_be"] for row in read_table(tmp_path / "predictions.csv"))


def test_right_labels_of_a_sure_model_raise_no_doubt():
    logits = 9 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert len(doubtful_labels(Predictions("test", [*"abc"], [0, 1, 2, 0], logits)).places) == 0


def test_a_class_without_images_is_suggested_for_none():
    logits = np.array([[0, 0, 9]], np.float32)
    assert len(doubtful_labels(Predictions("test", [*"abc"], [0], logits)).places) == 0
