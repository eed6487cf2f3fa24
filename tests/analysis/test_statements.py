"""What the analyses say of chance: silent on noise as often as they claim, and not on a planted effect."""

import numpy as np
import pytest

from volo.analysis.calibration import calibration_metrics, save_calibration
from volo.analysis.evaluate import Predictions
from volo.analysis.explaining.localization import Objects, all_intervals, score_heatmaps, score_random
from volo.analysis.intervals import compared, mean_interval, share_interval
from volo.analysis.report import Report, write_report

NUM_DRAWS = 400
# A rate of 5 in 100 is passed by chance alone 1 time in 1000: 34 of 400; one of 2.5 in 100: 21 of 400.
FIVE_PERCENT, HALF_OF_IT = 34, 21


def drawn(generator: np.random.Generator, num_samples: int, sharpness: float = 1.0, split="test") -> Predictions:
    """Labels drawn from the softmax of logits that are then made `sharpness` times too large."""
    logits = generator.normal(size=(num_samples, 5)) * 1.5
    odds = np.exp(logits).cumsum(axis=1)
    labels = (odds < generator.random((num_samples, 1)) * odds[:, -1:]).sum(axis=1)
    return Predictions(split, tuple("abcde"), labels, (logits * sharpness).astype(np.float32))


@pytest.mark.parametrize(("hits", "total", "expected"), [
    (0, 10, (0.0, 0.3085)), (10, 10, (0.6915, 1.0)), (3, 10, (0.0667, 0.6525)), (50, 100, (0.3983, 0.6017)),
    (81, 263, (0.2527, 0.3676)),
])  # fmt: skip
def test_intervals_of_shares_are_those_of_clopper_and_pearson(hits, total, expected):
    assert share_interval(hits, total) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("probability", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("total", [5, 60])
def test_intervals_of_shares_hold_the_truth_at_their_level(probability, total):
    """Exactly, by the probability of every number of hits: each end fails in 2.5 of 100 at most."""
    hits = np.arange(total + 1)
    intervals = np.array([share_interval(int(count), total) for count in hits])
    choices = np.cumprod(np.concatenate([[1.0], (total - hits[:-1]) / (hits[:-1] + 1)]))
    weights = choices * probability**hits * (1 - probability) ** (total - hits)
    assert weights[intervals[:, 0] > probability].sum() <= 0.025
    assert weights[intervals[:, 1] < probability].sum() <= 0.025


@pytest.mark.parametrize(("hits", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_shares_that_cannot_be_are_refused(hits, total):
    with pytest.raises(ValueError, match=f"got {hits} of {total}"):
        share_interval(hits, total)


def test_an_accuracy_of_many_images_has_a_narrow_interval():
    low, high = share_interval(850_000, 1_000_000)
    assert 0.849 < low < 0.85 < high < 0.851


def test_intervals_of_means_hold_the_truth_at_their_level():
    generator = np.random.default_rng(0)
    intervals = [mean_interval(generator.exponential(size=300) - 1) for _ in range(NUM_DRAWS)]
    assert sum(not low <= 0 <= high for low, high in intervals) <= FIVE_PERCENT
    assert mean_interval(np.ones(1)) == (-np.inf, np.inf)


@pytest.mark.parametrize("num_samples", [40, 300])
def test_a_calibrated_model_is_rarely_called_miscalibrated(num_samples):
    generator = np.random.default_rng(1)
    scores = [calibration_metrics(drawn(generator, num_samples)) for _ in range(NUM_DRAWS)]
    wrong = sum(score["ece"] > score["ece_by_chance"] for score in scores)
    assert 0 < wrong <= FIVE_PERCENT
    assert min(score["ece"] for score in scores) > 0.01  # though its ece is never 0


def test_overconfidence_is_called_more_than_chance(tmp_path):
    metrics = calibration_metrics(drawn(np.random.default_rng(2), 300, sharpness=3.0))
    assert metrics["ece"] > 2 * metrics["ece_by_chance"]
    for sharpness, words in ((1.0, "no more than chance gives"), (3.0, "more than chance, which gives")):
        predictions = drawn(np.random.default_rng(2), 300, sharpness)
        assert words in save_calibration(predictions, None, tmp_path)["notes"][0]


def effect_of_temperature(generator: np.random.Generator, sharpness: float, folder) -> str:
    test = drawn(generator, 300, sharpness)
    notes = save_calibration(test, drawn(generator, 300, sharpness, split="val"), folder)["notes"]
    return next((note for note in notes if note.startswith("Temperature")), "")


def test_a_temperature_that_cannot_help_is_rarely_said_to(tmp_path, monkeypatch):
    """The model is calibrated: whatever temperature its validation images ask for does harm, if anything."""
    monkeypatch.setattr("volo.analysis.calibration._save_diagram", lambda *_: None)  # slow, and says nothing
    generator = np.random.default_rng(3)
    said = [effect_of_temperature(generator, 1.0, tmp_path) for _ in range(NUM_DRAWS)]
    assert sum(" lowers the negative" in note for note in said) <= HALF_OF_IT
    assert sum("may lower or raise" in note for note in said) > NUM_DRAWS / 2


def test_a_temperature_that_helps_is_said_to_by_how_much(tmp_path):
    note = effect_of_temperature(np.random.default_rng(4), 3.0, tmp_path)
    assert "Temperature 3" in note and " lowers the negative log-likelihood" in note
    assert "nats (95% interval)" in note


def discs(num_images: int, generator: np.random.Generator) -> Objects:
    """Squares of 3 to 7 pixels a side anywhere in 16 x 16."""
    masks = np.zeros((num_images, 16, 16), bool)
    for mask in masks:
        side = generator.integers(3, 8)
        top, left = generator.integers(0, 17 - side, 2)
        mask[top : top + side, left : left + side] = True
    return Objects(masks, masks)


def verdict(heatmaps: np.ndarray, objects: Objects) -> str:
    scores = {"gradcam": score_heatmaps(heatmaps, objects), "random": score_random(objects)}
    intervals = all_intervals(scores, objects)
    assert intervals.keys() == {"gradcam"}
    return compared(intervals["gradcam"]["in_mask"], scores["random"]["in_mask"])


def test_explanations_that_point_anywhere_are_rarely_said_to_find_the_object():
    generator = np.random.default_rng(5)
    said = []
    for _ in range(NUM_DRAWS):
        objects = discs(60, generator)
        said.append(verdict(generator.random((60, 16, 16)), objects))
    assert said.count("more often") <= HALF_OF_IT and said.count("less often") <= HALF_OF_IT
    assert said.count("cannot be told") >= NUM_DRAWS - FIVE_PERCENT


def test_explanations_that_find_the_object_or_shun_it_are_said_to():
    generator = np.random.default_rng(6)
    objects, noise = discs(60, generator), generator.random((60, 16, 16))
    planted = noise + objects.masks * (np.arange(60) % 2)[:, None, None]  # on every other image
    assert verdict(planted, objects) == "more often"
    assert verdict(noise * ~objects.masks, objects) == "less often"


def test_the_report_says_of_each_pointer_how_it_compares_and_of_the_random_one_nothing(tmp_path):
    shares = {"in_mask": 0.5, "in_box": 0.6, "in_mask_off_centre": None}
    scores = {"gradcam": shares, "centre": shares | {"in_mask": 0.1}, "random": shares | {"in_mask": 0.1}}
    intervals = {name: {"in_mask": share_interval(round(60 * scores[name]["in_mask"]), 60)} for name in scores}
    del intervals["random"]
    report = Report("run", "best", "test", {}, localization=scores, intervals=intervals, num_scored=60)
    page = write_report(tmp_path, report).read_text()
    assert page.count('<td class="verdict">more often</td>') == 1
    assert page.count('<td class="verdict">cannot be told</td>') == 1
    assert page.count('<td class="verdict"></td>') == 1
    assert "<small>36.8 to 63.2%</small>" in page and "over 60 images" in page


def test_an_accuracy_stands_with_its_interval(tmp_path):
    page = write_report(tmp_path, Report("run", "best", "test", {"acc1": 0.5, "num_samples": 100})).read_text()
    assert "39.8 to 60.2%, 95% interval" in page
