import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from volo.analysis.calibration import calibration_metrics, fit_temperature, reliability, save_calibration, scaled
from volo.analysis.evaluate import Predictions

CURVES = {f"{name}_{stage}" for stage in ("before", "after") for name in ("confidence", "accuracy", "count")}
NAMES = ("nll", "brier", "ece", "mce")
SCORES = {f"{name}_{stage}" for stage in ("before", "after") for name in (*NAMES, "ece_by_chance")}


def drawn(num_samples=2000, num_classes=10, sharpness=3.0, seed=0, split="test") -> Predictions:
    """Labels drawn from the softmax of logits that are then made `sharpness` times too large."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_samples, num_classes)) * 1.5
    odds = np.exp(logits).cumsum(axis=1)
    labels = (odds < generator.random((num_samples, 1)) * odds[:, -1:]).sum(axis=1)
    names = tuple(f"class {i}" for i in range(num_classes))
    return Predictions(split, names, labels, (logits * sharpness).astype(np.float32))


def of_probabilities(rows, labels) -> Predictions:
    rows = np.asarray(rows)
    return Predictions("test", tuple("abcdef"[: rows.shape[1]]), np.asarray(labels), np.log(rows))


@pytest.mark.parametrize("num_bins", [1, 10, 15])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_ece_and_mce_agree_with_torchmetrics(num_bins, sharpness):
    predictions = drawn(sharpness=sharpness)
    metrics = calibration_metrics(predictions, num_bins)
    for name, norm in (("ece", "l1"), ("mce", "max")):
        peer = MulticlassCalibrationError(num_classes=10, n_bins=num_bins, norm=norm)
        expected = peer(torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels))
        assert metrics[name] == pytest.approx(expected.item(), abs=1e-6)


def test_metrics_of_a_case_computed_by_hand():
    """Confidences 0.9 and 0.7 share the upper of two bins, both right; 0.45 (wrong) has the lower one."""
    predictions = of_probabilities([[0.9, 0.05, 0.05], [0.1, 0.7, 0.2], [0.45, 0.3, 0.25]], [0, 1, 2])
    metrics = calibration_metrics(predictions, num_bins=2)
    assert metrics["ece"] == pytest.approx(2 / 3 * (1 - 0.8) + 1 / 3 * 0.45, abs=1e-6)
    assert metrics["mce"] == pytest.approx(0.45, abs=1e-6)
    assert metrics["nll"] == pytest.approx(-np.log([0.9, 0.7, 0.25]).mean(), abs=1e-6)
    squares = [0.1**2 + 2 * 0.05**2, 0.1**2 + 0.3**2 + 0.2**2, 0.45**2 + 0.3**2 + 0.75**2]
    assert metrics["brier"] == pytest.approx(np.mean(squares), abs=1e-6)


def test_bins_hold_every_image_and_empty_ones_are_nan():
    bins = reliability(drawn(num_classes=2), num_bins=10)
    assert bins.count.sum() == 2000
    np.testing.assert_allclose(bins.edges, np.linspace(0, 1, 11))
    assert bins.count[:5].sum() == 0 and np.isnan(bins.accuracy[:5]).all() and np.isnan(bins.confidence[:5]).all()
    filled = bins.count > 0
    assert (bins.confidence[filled] > bins.edges[:-1][filled]).all()
    assert (bins.confidence[filled] <= bins.edges[1:][filled]).all()


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        reliability(drawn(), num_bins=0)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_temperature_undoes_sharpness_and_agrees_with_lbfgs(sharpness):
    predictions = drawn(sharpness=sharpness, num_samples=4000)
    temperature = fit_temperature(predictions)
    assert temperature == pytest.approx(sharpness, rel=0.1)
    assert temperature == pytest.approx(lbfgs_temperature(predictions), rel=1e-3)


def lbfgs_temperature(predictions: Predictions) -> float:
    logits, labels = torch.from_numpy(predictions.logits).double(), torch.from_numpy(predictions.labels)
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_temperature.exp().item()


@pytest.mark.parametrize("seed", range(10))
def test_temperature_never_raises_the_validation_loss(seed):
    predictions = drawn(num_samples=8, num_classes=3, sharpness=10.0 ** (seed - 5), seed=seed)
    before, after = predictions.losses.mean(), scaled(predictions, fit_temperature(predictions)).losses.mean()
    assert after <= before


def test_temperature_stops_at_its_bounds_where_the_minimum_is_infinite():
    names, labels = ("a", "b"), np.array([0, 1, 0])
    logits = np.eye(2, dtype=np.float32)[labels]
    assert fit_temperature(Predictions("val", names, labels, logits)) == pytest.approx(0.05, rel=1e-5)
    assert fit_temperature(Predictions("val", names, labels, -logits)) == pytest.approx(20, rel=1e-5)
    huge = Predictions("val", names, labels, -1e6 * logits)
    assert fit_temperature(huge) == pytest.approx(20, rel=1e-5)


def test_temperature_of_constant_logits_is_one():
    assert fit_temperature(Predictions("val", ("a", "b"), np.array([0, 1]), np.ones((2, 2)))) == 1.0


def test_scaling_keeps_what_is_predicted():
    predictions = drawn()
    np.testing.assert_array_equal(scaled(predictions, 2.5).predicted, predictions.predicted)
    assert scaled(predictions, 2.5).confidence.mean() < predictions.confidence.mean()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_that_is_no_positive_number_is_refused(temperature):
    with pytest.raises(ValueError, match="finite and greater than 0"):
        scaled(drawn(), temperature)


def test_calibration_with_a_validation_split_writes_both_stages(tmp_path):
    result = save_calibration(drawn(), drawn(seed=1, split="val"), tmp_path / "analysis")
    assert result["after"]["ece"] < result["before"]["ece"] and len(result["notes"]) == 2
    with np.load(tmp_path / "analysis" / "calibration_stats.npz") as arrays:
        assert set(arrays) == {"edges", "temperature"} | CURVES | SCORES
        assert float(arrays["temperature"]) == result["temperature"]
        assert float(arrays["ece_after"]) == result["after"]["ece"]
        assert arrays["count_before"].sum() == 2000
    pictures = {path.name for path in (tmp_path / "analysis").glob("*.png")}
    assert pictures == {"reliability_before.png", "reliability_after.png"}


def test_the_temperature_is_that_of_the_validation_images_alone(tmp_path):
    val = drawn(seed=1, sharpness=0.5, split="val")
    result = save_calibration(drawn(sharpness=3.0), val, tmp_path)
    assert result["temperature"] == fit_temperature(val) < 1


def test_calibration_without_a_validation_split_pretends_no_temperature(tmp_path):
    save_calibration(drawn(), drawn(seed=1, split="val"), tmp_path)
    result = save_calibration(drawn(), None, tmp_path)
    assert result["after"] is None and result["temperature"] is None
    assert "no validation split" in result["notes"][1]
    assert not (tmp_path / "reliability_after.png").exists()
    with np.load(tmp_path / "calibration_stats.npz") as arrays:
        assert "temperature" not in arrays and not any(name.endswith("_after") for name in arrays)


def test_a_temperature_judged_on_its_own_images_is_noted(tmp_path):
    assert "it is evaluated on" in save_calibration(drawn(), drawn(), tmp_path)["notes"][1]


def test_a_temperature_at_its_bound_is_noted(tmp_path):
    labels = np.array([0, 1, 0])
    right = Predictions("val", ("a", "b"), labels, np.eye(2)[labels])
    test = Predictions("test", ("a", "b"), labels, np.eye(2)[labels[::-1]])
    assert "bound of its range" in save_calibration(test, right, tmp_path)["notes"][1]


def test_splits_of_different_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="10 and 3 of them"):
        save_calibration(drawn(), drawn(num_classes=3), tmp_path)
    assert not list(tmp_path.iterdir())
