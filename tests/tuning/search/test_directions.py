"""Less is better if an objective says so; the epochs a trial is granted and the cost of a model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.tuning.sweeps import base, epochs_run, opened, play, states
from volo.model.build import build_model
from volo.settings.config import build_settings
from volo.tuning.counts import counts
from volo.tuning.results import best_trial, ranked, write_results

LOSSES = [0.7, 0.3, 0.9, 0.5]


@pytest.mark.parametrize(("objective", "order"), [("val/loss:min", [1, 3, 0, 2]), ("val/acc1:max", [2, 0, 3, 1])])
def test_the_best_trial_is_the_one_with_the_least_loss_or_the_highest_accuracy(tmp_path, objective, order):
    study = opened(tmp_path, num_samples=len(LOSSES), pruner="none", objectives=(objective,), keep_checkpoints=1)
    for value in LOSSES:
        number = study.next_work().number
        (study.run_dir(number) / "checkpoints").mkdir(parents=True)
        study.report(number, {"epoch": 4, "step": 40, "val/loss": value, "val/acc1": value})
    assert [trial.number for trial in ranked(study)] == order
    assert best_trial(study).number == order[0]
    write_results(study)
    kept = [number for number in range(len(LOSSES)) if (study.run_dir(number) / "checkpoints").exists()]
    assert kept == order[:1]


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
@pytest.mark.parametrize("grace", [1, 3])
def test_every_pruner_stops_trials_after_the_grace_period_and_none_before(tmp_path, pruner, grace):
    settings = base(epochs=8)
    study = opened(tmp_path, settings=settings, num_samples=12, grace_period=grace, sampler="random", pruner=pruner)
    assert "PRUNED" in states(play(study))
    assert min(len(epochs_run(study, number)) for number in range(12)) == grace


def test_operations_are_those_that_another_image_adds_to_a_batch():
    settings = build_settings({"model": dict(variant="quickstart", outlook_op="reference")})
    with torch.device("meta"):
        model = build_model(settings.model, num_classes=10, image_size=32).eval().requires_grad_(False)

    def operations(num_images: int) -> int:
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(num_images, 3, 32, 32, device="meta"))
        return counter.get_total_flops()

    assert counts(settings, num_classes=10)["flops"] == operations(5) - operations(4) > 0
    assert counts(settings, num_classes=10)["params"] == sum(parameter.numel() for parameter in model.parameters())
