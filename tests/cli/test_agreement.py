"""What the training said of a checkpoint on its validation images, jobs.analyze says again, to the last digit."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import draw_folder
from tests.faults.tools.forked import Command
from tests.models import PYRAMID
from tests.training.runs import small_run, train
from volo.analysis.evaluate import Predictions, classification_metrics
from volo.cli import analyze
from volo.cli.outcome import exit_code
from volo.runs import checkpoint
from volo.runs.records import read_records
from volo.training.metrics import evaluate
from volo.training.world import single_process

CLASSES = ("cat", "dog", "owl", "yak", "emu", "ape", "gnu")  # more than five, so that top-5 means something
PUBLISHED = dict(
    form="published",
    variant="volo_d1",
    layers=(1, 1, 1, 1),
    embed_dims=(16, 32),
    stage_heads=(2, 4),
    stem_dim=8,
    patch_size=8,
    stem_channels=None,
)  # with batch norm
RUNS = {
    "averaged": {},
    "raw": dict(optim=dict(ema_decay=0)),
    "mixed precision": dict(optim=dict(use_amp=True, autocast_dtype="bf16"), run=dict(device="cpu")),
    "fp16": dict(optim=dict(use_amp=True, autocast_dtype="fp16")),
    "pyramid": dict(model=PYRAMID),
    "batch norm": dict(model=PUBLISHED),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """42 to validate on: no whole number of batches."""
    return draw_folder(tmp_path_factory.mktemp("images"), {"train": dict.fromkeys(CLASSES, 12)}, size=16)


def settings(tmp_path: Path, images: Path, **overrides):
    data = dict(val_fraction=0.5, image_size=16)
    overrides["optim"] = dict(epochs=2) | overrides.get("optim", {})
    return small_run(tmp_path, images, data=data, augment=dict(label_smoothing=0.2), **overrides)


def said_in_training(run_dir: Path) -> dict[str, float]:
    """Of the best checkpoint, which `jobs.analyze` takes."""
    step = checkpoint.verify(checkpoint.find(run_dir)).step
    [record] = [one for one in read_records(run_dir) if one["kind"] == "epoch" and one["step"] == step]
    return record


def said_by_analysis(run_dir: Path, output_dir: Path) -> dict[str, float]:
    flags = ["--checkpoint", str(run_dir), "--split", "val", "--analysis", "eval", "--output-dir", str(output_dir)]
    assert exit_code(analyze.main, [*flags, "--num-workers", "0", "--no-show"]) == 0
    return json.loads((output_dir / "eval_metrics.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_validation_and_analysis_of_a_checkpoint_agree_to_the_last_digit(tmp_path, images, name):
    run_dir = train(settings(tmp_path, images, **RUNS[name]))
    before, after = said_in_training(run_dir), said_by_analysis(run_dir, tmp_path / "a")
    assert after["num_samples"] == 42
    assert (before["val/acc1"], before["val/acc5"]) == (after["acc1"], after["acc5"])
    assert before["val/loss"] == pytest.approx(after["loss"], rel=1e-13)


def test_two_ranks_validate_as_one_process_analyzes(tmp_path, images):
    """Shares are other batches: float32 allows the last digit of a logit to differ."""
    command = Command.of(settings(tmp_path, images))
    command.finish(num_ranks=2)
    before, after = said_in_training(command.run_dir), said_by_analysis(command.run_dir, tmp_path / "a")
    assert (before["val/acc1"], before["val/acc5"]) == (after["acc1"], after["acc5"])
    assert before["val/loss"] == pytest.approx(after["loss"], rel=1e-6)


def test_ties_are_broken_alike():
    """Logits of a few values each, as a head that has learned nothing gives: most are equal to others."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 3, (500, 9), generator=generator).float()
    labels = torch.randint(0, 9, (500,), generator=generator)
    found = evaluate(torch.nn.Identity(), [(logits[:77], labels[:77]), (logits[77:], labels[77:])], single_process())
    names = tuple("abcdefghi")
    expected = classification_metrics(Predictions("val", names, labels.numpy(), logits.numpy()))
    assert (found["val/acc1"], found["val/acc5"]) == (expected["acc1"], expected["acc5"])
    assert found["val/loss"] == pytest.approx(expected["loss"], rel=1e-13)


def test_logits_that_are_nan_are_never_right():
    logits = torch.full((4, 7), float("nan"))
    one_bad = torch.tensor([[5.0, float("nan"), 0.0, 0.0, 0.0, 0.0, 0.0]]).expand(4, 7)
    for wrong in (logits, one_bad):
        found = evaluate(torch.nn.Identity(), [(wrong, torch.zeros(4, dtype=torch.int64))], single_process())
        assert found["val/acc1"] == 0
