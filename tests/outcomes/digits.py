"""Real images in a package: 1,797 handwritten digits of 8 x 8 pixels (scikit-learn's), as an image folder."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import volo
from volo.settings.config import Settings, build_settings, merge
from volo.training.launch import train_here

NUM_TEST, GRAYS = 360, 16
FLAT = dict(variant="quickstart", patch_size=2, stem_channels=(24,), global_depth=2, drop_path_rate=0.1)
PYRAMID = dict(variant="quickstart", form="pyramid", patch_size=2, stem_channels=(24,), drop_path_rate=0.1)
PUBLISHED = dict(
    variant="volo_d1", stem_dim=16, layers=(1, 1, 1, 1), embed_dims=(48, 96), stage_heads=(2, 4), patch_size=2,
    drop_path_rate=0.1,
)  # fmt: skip


def write_digits(root: Path, classes: Collection[int] = range(10)) -> Path:
    """Some of the digits as train/<digit>/ and test/<digit>/, which is a fifth of all, drawn."""
    digits = load_digits()
    for place, index in enumerate(np.random.default_rng(0).permutation(len(digits.images))):
        if (digit := int(digits.target[index])) in classes:
            folder = root / ("test" if place < NUM_TEST else "train") / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            gray = (digits.images[index] * (255 / GRAYS)).round().astype(np.uint8)
            Image.fromarray(gray).save(folder / f"{index:04d}.png")
    return root


def settings_of(images: Path, outputs: Path, name: str, model: dict | None = None, **overrides) -> Settings:
    """Eight epochs of 40 steps with the average, mixing and stochastic depth on, as by default or in the recipes;
    digits are not mirrored."""
    values = {
        "data": dict(dataset="imagefolder", data_dir=str(images), image_size=16),
        "augment": dict(hflip=0.0, mixup_alpha=0.2, cutmix_alpha=1.0, mix_prob=0.5),
        "optim": dict(epochs=8, batch_size=32),
        "run": dict(output_dir=str(outputs), run_name=name, num_workers=0),
    }
    return build_settings(merge(values, {"model": FLAT if model is None else model, **overrides}))


def train(settings: Settings) -> Path:
    train_here(settings)
    return settings.run_dir


def accuracy(run_dir: Path, images: Path) -> float:
    """Of the saved file alone, through what a user calls."""
    classifier = volo.load(run_dir)
    files = sorted((images / "test").rglob("*.png"))
    return float(np.mean([classifier.predict(file)[0][0] == file.parent.name for file in files]))
