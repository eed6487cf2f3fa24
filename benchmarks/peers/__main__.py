"""Accuracy for the time it takes: our model and its peers, on the same files, cores and clock.

    python -m benchmarks.peers --data-dir data/cifar10-jpeg --image-size 32 --minutes 5 20
    python -m benchmarks.peers --data-dir data/flowers128 --image-size 128 --minutes 5 20

Each candidate chooses its learning rate on the validation images, in trials of a tenth of the time, which do not count;
then it trains once for each seed and is tested once. The network tested is the moving average of the weights. Every
result is kept in --output, and what is there already is not done again: a race may be stopped and goes on. A minute is
worth more on a faster machine, so a race has to be run to its end on one, and nothing else beside it.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.candidates import Candidate, candidates, variants
from benchmarks.peers.racing import Arena, train
from benchmarks.timing import machine
from volo.allocator import keep_memory
from volo.settings.config import build_settings

TRIAL = 0.1  # of the time


class Results:
    """Records in a file, one JSON object a line, found again by what they are results of."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records = list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def find(self, **key: Any) -> dict[str, Any] | None:
        return next((each for each in self.records if key.items() <= each.items()), None)

    def add(self, record: dict[str, Any]) -> dict[str, Any]:
        self.records.append(record)
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")
        return record


def race(name: str, candidate: Candidate, arena: Arena, minutes: float, seed: int, results: Results) -> dict[str, Any]:
    """The record of one candidate, which is tested if it was not before."""
    key = dict(name=name, minutes=minutes, machine=machine())
    trials = []
    for lr in candidate.rates:
        trial = dict(key, kind="trial", lr=lr)
        if (found := results.find(**trial)) is None:
            trained = train(candidate, arena, lr, 0, TRIAL * 60 * minutes)
            found = results.add(trial | dict(val=arena.val_accuracy(trained.model), epochs=trained.epochs))
            print(
                f"  {name}, lr {lr:g}: {found['val']:.2%} of the validation images, {found['epochs']:.2f} epochs",
                flush=True,
            )
        trials.append(found)
    lr = max(trials, key=lambda trial: trial["val"])["lr"]
    final = dict(key, kind="final", seed=seed, lr=lr)
    if (found := results.find(**final)) is None:
        trained = train(candidate, arena, lr, seed, 60 * minutes)
        found = results.add(
            final
            | dict(
                test=arena.test_accuracy(trained.model), val=arena.val_accuracy(trained.model), epochs=trained.epochs,
                seconds=trained.seconds, parameters=sum(weight.numel() for weight in trained.model.parameters()),
            )
        )  # fmt: skip
        print(
            f"  {name}, seed {seed}: {found['test']:.2%} of the test images, {found['epochs']:.1f} epochs", flush=True
        )
    return found


def table(records: list[dict[str, Any]], minutes: list[float]) -> Iterator[str]:
    """Markdown, the best first."""
    finals = [record for record in records if record["kind"] == "final"]
    names = {record["name"] for record in finals}

    def cell(name: str, length: float) -> tuple[float, str]:
        found = [record for record in finals if (record["name"], record["minutes"]) == (name, length)]
        if not found:
            return 0.0, ""
        tests = [record["test"] for record in found]
        spread = f" ({min(tests):.2%} to {max(tests):.2%})" if len(tests) > 1 else ""
        epochs = statistics.mean(record["epochs"] for record in found)
        mean = statistics.mean(tests)
        return mean, f"{mean:.2%}{spread}, {epochs:.1f} epochs, lr {found[0]['lr']:g}"

    yield "| network | parameters | " + " | ".join(f"{length:g} minutes" for length in minutes) + " |"
    yield "|---" * (2 + len(minutes)) + "|"
    for name in sorted(names, key=lambda name: (-max(cell(name, length)[0] for length in minutes), name)):
        parameters = next(record["parameters"] for record in finals if record["name"] == name)
        cells = " | ".join(cell(name, length)[1] for length in minutes)
        yield f"| {name} | {parameters / 1e6:.2f} M | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="an image folder with a test split")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", default="nano", help="our size, whose geometry timm's blocks have")
    parser.add_argument("--variants", action="store_true", help="ours alone, one part of its recipe after the other")
    parser.add_argument("--only", nargs="+", help="names of candidates, or beginnings of them")
    parser.add_argument("--output", type=Path, default=Path("outputs/peers"))
    flags = parser.parse_args()
    torch.set_num_threads(2)
    keep_memory()
    data = dict(dataset="imagefolder", data_dir=flags.data_dir, image_size=flags.image_size, val_fraction=0.1)
    arena = Arena.of(build_settings({"data": data}).resolved().data)
    kind = "-variants" if flags.variants else ""
    results = Results(flags.output / f"{Path(flags.data_dir).name}-{flags.model}{kind}.jsonl")
    print(
        f"{machine()}; {len(arena.split.train):,} images to train on, {len(arena.tests.labels):,} to test", flush=True
    )
    for minutes in flags.minutes:
        for name, candidate in (variants if flags.variants else candidates)(flags.model).items():
            if not flags.only or name.startswith(tuple(flags.only)):
                for seed in flags.seeds:
                    race(name, candidate, arena, minutes, seed, results)
    print(*table(results.records, flags.minutes), sep="\n")


if __name__ == "__main__":
    main()
