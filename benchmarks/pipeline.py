"""The data pipeline against the model that it feeds, on one device: images/s of batches alone and of training steps.

python -m benchmarks.pipeline [--model nano] [--device cuda]
"""

import argparse
import itertools

import torch

from benchmarks.timing import alternate, machine, ratios
from volo.data.datasets import open_split
from volo.data.pipeline import Pixels, TrainingBatches
from volo.model.build import build_model
from volo.settings.config import build_settings
from volo.training.learner import Learner
from volo.training.world import single_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    flags = parser.parse_args()
    settings = build_settings(
        {
            "model": {"variant": flags.model},
            "data": {"dataset": "shapes"},
            "augment": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
            "optim": {"batch_size": flags.batch_size},
        }
    ).resolved()
    world = single_process(flags.device)
    data = open_split(settings.data, "train")
    pixels = Pixels(data, settings.data.mean, settings.data.std, world.device)
    batches = TrainingBatches(
        data, torch.arange(len(data)).numpy(), pixels, settings.augment,
        batch_size=flags.batch_size, seed=0, epochs=1,
    )  # fmt: skip
    learner = Learner(build_model(settings.model, num_classes=100, image_size=32), settings.optim, world)
    steps = itertools.cycle(range(batches.steps_per_epoch))
    fixed = batches.batch(0, 0)
    times = alternate(
        {"pipeline": lambda: batches.batch(0, next(steps)), "model": lambda: learner.update(fixed, 1e-4)},
        flags.rounds, seconds=0.5,
    )  # fmt: skip
    print(f"{machine()}; {flags.model}, batch {flags.batch_size}, mixup and cutmix, n = {flags.rounds}")
    for name, found in times.items():
        print(f"{name}: {flags.batch_size / sorted(found)[len(found) // 2]:,.0f} images/s")
    print(f"pipeline over model: {ratios(times['model'], times['pipeline'])}")


if __name__ == "__main__":
    main()
