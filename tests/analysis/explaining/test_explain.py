import numpy as np
import pytest
import torch

import volo
from volo.analysis.evaluate import Predictions
from volo.analysis.explaining.explain import save_explanation, select, shuffled


def drawn(num_samples=60, accuracy=0.5) -> Predictions:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, num_samples)
    predicted = np.where(np.arange(num_samples) < accuracy * num_samples, labels, (labels + 1) % 5)
    return Predictions("test", tuple("abcde"), labels, np.eye(5)[predicted] + generator.random((num_samples, 5)) / 2)


def test_half_of_the_shown_images_are_wrong_and_all_scored_ones_right():
    predictions = drawn()
    chosen = select(predictions, num_shown=8, num_scored=20)
    assert (np.diff(chosen.places) > 0).all()
    assert not predictions.correct[chosen.places[chosen.shown[:4]]].any()
    assert predictions.correct[chosen.places[chosen.shown[4:]]].all()
    assert len(chosen.scored) == 20 and predictions.correct[chosen.places[chosen.scored]].all()
    assert {*chosen.shown, *chosen.scored} == {*range(len(chosen.places))}


def test_the_same_seed_selects_the_same_images():
    one, two, other = (select(drawn(), num_scored=20, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.places, two.places)
    assert not np.array_equal(one.places, other.places)


@pytest.mark.parametrize(("accuracy", "num_scored"), [(0, 0), (0.5, 30), (1, 60)])
def test_of_too_few_images_all_are_taken(accuracy, num_scored):
    chosen = select(drawn(accuracy=accuracy), num_shown=12, num_scored=500)
    assert len(chosen.scored) == num_scored
    assert len(chosen.shown) == 12


def test_shuffling_moves_the_numbers_of_each_parameter_and_leaves_the_model_alone():
    model = volo.create_model("quickstart", num_classes=3)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    moved = dict(shuffled(model, seed=0).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert torch.equal(moved[name].flatten().sort().values, parameter.flatten().sort().values)
    assert not torch.equal(moved["head.weight"], before["head.weight"])
    again = dict(shuffled(model, seed=0).named_parameters())
    assert all(torch.equal(again[name], parameter) for name, parameter in moved.items())


def test_what_is_saved_is_read_without_running_code(tmp_path):
    predictions = drawn()
    selection = select(predictions, num_shown=6, num_scored=10)
    n = len(selection.places)
    maps, heatmaps = np.random.rand(n, 4, 4).astype(np.float32), np.random.rand(n, 8, 8).astype(np.float32)
    about = {"method": "some", "layer": "local_stage", "window": [2, 2]}
    save_explanation(tmp_path / "a.pt", about, predictions, selection, maps, heatmaps)
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert found["layer"] == "local_stage" and found["class_names"] == list("abcde") and found["split"] == "test"
    assert found["maps"].shape == (n, 4, 4) and found["heatmaps"].shape == (n, 8, 8)
    indices = found["indices"].numpy()
    np.testing.assert_array_equal(found["labels"], predictions.labels[indices])
    np.testing.assert_array_equal(found["predicted"], predictions.predicted[indices])
    assert (found["labels"] == found["predicted"])[found["scored"]].all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
