"""Settings of every test: caches of its own session, strict property tests, small images drawn on the spot."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # started by nohup, which volo heeds
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("volo", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("volo")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded images of the tests, away from the user's, for this process and those it starts; and no other data."""
    os.environ.pop("VOLO_DATA_DIR", None)
    os.environ["VOLO_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


def draw_folder(root: Path, counts: dict[str, dict[str, int]], size: int = 32, seed: int = 0) -> Path:
    """An image folder of noise around a colour of each class: `counts` is split -> class -> number of images."""
    rng = np.random.default_rng(seed)
    for split, classes in counts.items():
        for number, (name, count) in enumerate(classes.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            colour = np.array([(50 + 70 * number) % 256, (200 - 60 * number) % 256, (90 * number) % 256])
            for index in range(count):
                noise = rng.integers(-40, 40, (size, size, 3))
                Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{index:04d}.png")
    return root


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory) -> Path:
    """The run folder of the recipe `quickstart`, trained once in this process: about a minute on two cores."""
    from volo.settings.config import build_settings
    from volo.settings.recipes import recipe_settings
    from volo.training.launch import train_here

    run = dict(num_workers=0, output_dir=str(tmp_path_factory.mktemp("outputs")))
    settings = build_settings(recipe_settings("quickstart"), {"run": run})
    train_here(settings)
    return settings.run_dir


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, 40 images each to train on and 10 each to test."""
    counts = {"cat": 40, "dog": 40}
    return draw_folder(tmp_path / "images", {"train": counts, "test": {"cat": 10, "dog": 10}})
