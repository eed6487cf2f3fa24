"""Fine-tuning photographs at 224 pixels against training from scratch for as long: accuracy on the test split.

    python -m benchmarks.finetuning --source data/cifar10-jpeg --target data/flowers128

The weights to begin with come from a short training on other images at 64 pixels. Both runs then have the same data,
epochs and batches; each learning rate is tried from scratch, and the test split chooses nothing.
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
    drop_path_rate=0.1,
)  # fmt: skip
AUGMENT = dict(mixup_alpha=0.8, cutmix_alpha=1.0, mix_prob=0.5)
SCRATCH_LRS = (1e-3, 2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="image folder to make weights on")
    parser.add_argument("--target", required=True, help="image folder to fine-tune on")
    parser.add_argument("--source-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output-dir", default="outputs/finetuning")
    given = parser.parse_args()

    source = settings_of(given, "source", given.source, 64, dict(epochs=given.source_epochs, lr=2e-3))
    train_here(source)

    def target(name: str, **optim) -> Settings:
        return settings_of(given, name, given.target, 224, dict(epochs=given.epochs, **optim), image_size=128)

    runs = {f"from scratch, lr {lr:g}": target(f"scratch-{lr:g}", lr=lr) for lr in SCRATCH_LRS}
    runs["fine-tuned, lr 0.001"] = target("finetuned", init_weights=str(source.run_dir), lr=1e-3)
    for name, settings in runs.items():
        start = time.perf_counter()
        train_here(settings)
        took_s = time.perf_counter() - start
        print(f"{name}: test top-1 {test_accuracy(settings.run_dir):.2%}, {took_s:,.0f} s", flush=True)


def settings_of(given: argparse.Namespace, name: str, data_dir: str, input_size: int, optim: dict, **data) -> Settings:
    return build_settings(
        {
            "model": MODEL | dict(input_size=input_size),
            "data": dict(dataset="imagefolder", data_dir=data_dir, **data),
            "augment": AUGMENT,
            "optim": dict(batch_size=64, **optim),
            "run": dict(output_dir=given.output_dir, run_name=name, num_workers=0, fresh=True),
        }
    )


def test_accuracy(run_dir: Path) -> float:
    """Of the best checkpoint by validation."""
    subject = load_subject(checkpoint.find(run_dir))
    view = open_view(subject.description, "test")
    logits = compute_logits(subject, view, torch.device("cpu"), 0, 1)
    return float((logits.argmax(1) == view.labels).mean())


if __name__ == "__main__":
    main()
