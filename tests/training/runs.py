"""Small real runs for tests: settings, and what came out."""

from pathlib import Path

import torch

from volo.runs import checkpoint
from volo.runs.records import read_records
from volo.settings.config import Settings, build_settings, merge
from volo.training.launch import train_here


def small_run(tmp_path: Path, folder: Path, **overrides) -> Settings:
    """Three epochs of four steps on a folder of 80 images; `overrides` are nested as in a YAML file."""
    values = {
        "model": dict(variant="quickstart", embed_dim=32, stem_channels=(8, 16)),
        "data": dict(dataset="imagefolder", data_dir=str(folder), val_fraction=0.2),
        "augment": dict(mixup_alpha=0.5, cutmix_alpha=1.0),
        "optim": dict(epochs=3, batch_size=16, lr=2e-3),
        "run": dict(output_dir=str(tmp_path / "outputs"), run_name="run", num_workers=0, log_every=1),
    }
    return build_settings(merge(values, overrides))


def train(settings: Settings) -> Path:
    train_here(settings)
    return settings.run_dir


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Of the run's newest checkpoint: the average's and the raw ones."""
    folder = checkpoint.newest(run_dir)
    averaged, _ = checkpoint.load_model(folder)
    raw = checkpoint.load_state(folder)["model"]
    return averaged | {f"raw.{name}": tensor for name, tensor in raw.items()}


def losses(run_dir: Path) -> dict[int, float]:
    return {record["step"]: record["train/loss"] for record in read_records(run_dir) if record["kind"] == "step"}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
