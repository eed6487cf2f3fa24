"""Fine-tuning photographs at 224 pixels against training from scratch: accuracy on the test split, and time.

    python -m benchmarks.finetuning --data data/flowers128

The weights to fine-tune come from a training on the same images at 112 pixels, where an image costs a quarter. From
scratch, one run has as many epochs at 224 pixels as the fine-tuning, and one as much time as both trainings together.
All have one learning rate and batch size; the test split chooses nothing.
"""

import argparse
import time
from pathlib import Path

import torch

from volo.analysis.subject import compute_logits, load_subject, open_view
from volo.runs import checkpoint
from volo.settings.config import Settings, build_settings
from volo.training.launch import train_here

MODEL = dict(
    variant="volo_d1", stem_dim=24, layers=(1, 1, 1, 1), embed_dims=(48, 96), stage_heads=(2, 4), patch_size=8,
)  # fmt: skip
SMALL, LARGE = 112, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="image folder to train on and to test on")
    parser.add_argument("--epochs", type=int, default=3, help="at 224 pixels; at 112 it is twice and two as many")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--output-dir", default="outputs/finetuning")
    given = parser.parse_args()

    num_small = 2 * given.epochs + 2
    source = settings_of(given, "source", SMALL, num_small)
    report(f"{num_small} epochs at {SMALL} pixels", source)
    tuned = settings_of(given, "finetuned", LARGE, given.epochs, init_weights=str(source.run_dir))
    report(f"then {given.epochs} epochs at {LARGE}", tuned)
    for num_epochs in (given.epochs, given.epochs + num_small // 4):
        scratch = settings_of(given, f"scratch-{num_epochs}", LARGE, num_epochs)
        report(f"from scratch, {num_epochs} epochs at {LARGE}", scratch)


def settings_of(given: argparse.Namespace, name: str, input_size: int, num_epochs: int, **optim) -> Settings:
    return build_settings(
        {
            "model": MODEL | dict(input_size=input_size),
            "data": dict(dataset="imagefolder", data_dir=given.data, image_size=128),
            "optim": dict(batch_size=32, lr=given.lr, epochs=num_epochs, **optim),
            "run": dict(output_dir=given.output_dir, run_name=name, num_workers=0, fresh=True),
        }
    )


def report(what: str, settings: Settings) -> None:
    start = time.perf_counter()
    train_here(settings)
    took_s = time.perf_counter() - start
    print(f"{what}: test top-1 {test_accuracy(settings.run_dir):.2%}, {took_s:,.0f} s", flush=True)


def test_accuracy(run_dir: Path) -> float:
    """Of the best checkpoint by validation."""
    subject = load_subject(checkpoint.find(run_dir))
    view = open_view(subject.description, "test")
    logits = compute_logits(subject, view, torch.device("cpu"), 0, 1)
    return float((logits.argmax(1) == view.labels).mean())


if __name__ == "__main__":
    main()
