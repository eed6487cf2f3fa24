"""Explanations of the quickstart's model judged by where the drawn objects are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from volo.analysis.local import analyze_here
from volo.data import shapes
from volo.runs import checkpoint

pytestmark = pytest.mark.slow  # trains the whole quickstart

ANALYSES = ("eval", "calibration", "gradcam", "occlusion")


def analyzed(run_dir: Path, output_dir: Path, analyses: tuple[str, ...], split: str) -> Path:
    path = checkpoint.find(run_dir)
    analyze_here(path, analyses, output_dir, split=split, data_dir=None, device="cpu")
    return output_dir


@pytest.fixture(scope="module")
def found(quickstart_run, tmp_path_factory) -> Path:
    return analyzed(quickstart_run, tmp_path_factory.mktemp("found"), ANALYSES, "test")


@pytest.fixture(scope="module")
def localisation(found) -> dict:
    return json.loads((found / "localisation.json").read_text())


def test_the_quickstart_learns_its_classes(found):
    metrics = json.loads((found / "eval_metrics.json").read_text())
    assert metrics["num_samples"] >= 1000
    assert metrics["acc1"] >= 0.5


def test_occlusion_points_at_the_object(localisation):
    assert localisation["num_images"] == 500
    assert localisation["scores"]["occlusion"]["in_mask"] >= 0.80


def test_gradcam_points_into_the_box_around_the_object(localisation):
    assert localisation["scores"]["gradcam"]["in_box"] >= 0.75


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_an_explanation_finds_objects_off_the_centre_which_the_centre_does_not(localisation, method):
    scores = localisation["scores"]
    assert localisation["num_off_centre"] >= 100
    assert scores[method]["in_mask_off_centre"] >= scores["random"]["in_mask_off_centre"] + 0.3
    assert scores["centre"]["in_mask_off_centre"] == 0


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
@pytest.mark.parametrize("score", ["in_mask", "in_box", "in_mask_off_centre"])
def test_shuffled_weights_find_objects_hardly_better_than_a_random_point(localisation, method, score):
    scores = localisation["scores"]
    assert scores[f"{method}_shuffled"][score] <= scores["random"][score] + 0.10


@pytest.mark.parametrize(("method", "file"), [("gradcam", "gradcam.pt"), ("occlusion", "occlusion_heatmap.pt")])
def test_the_scores_can_be_counted_again_from_the_file(found, localisation, method, file):
    kept = torch.load(found / file, weights_only=True)
    scored = kept["scored"]
    assert (kept["labels"] == kept["predicted"])[scored].all()
    points = kept["heatmaps"][scored].flatten(1).argmax(dim=1).numpy()
    masks = shapes.draw("test", 0, 2000).masks[kept["indices"][scored].numpy()]
    hits = masks.reshape(len(masks), -1)[np.arange(len(masks)), points]
    assert hits.mean() == pytest.approx(localisation["scores"][method]["in_mask"])


def test_the_report_shows_the_scores_beside_their_baselines(found, localisation):
    page = (found / "report.html").read_text()
    for name in ("Grad-CAM", "Occlusion, shuffled weights", "Center of the image", "Random point"):
        assert f">{name}</th>" in page
    for scores in localisation["scores"].values():
        assert f"{100 * scores['in_mask']:.1f}%" in page


def test_temperature_scaling_lowers_the_loss_of_validation_and_test(quickstart_run, found, tmp_path):
    on_test = json.loads((found / "eval_metrics.json").read_text())
    analyzed(quickstart_run, tmp_path, ("calibration",), "val")
    on_val = json.loads((tmp_path / "eval_metrics.json").read_text())
    assert on_val["nll_after"] < on_val["nll"]
    assert on_test["temperature"] == on_val["temperature"]  # fitted on the same images whatever it is judged by
    assert on_test["nll_after"] < on_test["nll"] and on_test["ece_after"] < on_test["ece"]
