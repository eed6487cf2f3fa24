"""What candidates reached, kept in a file, and the table of it."""

import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.candidates import Candidate
from benchmarks.peers.racing import Arena, train
from benchmarks.timing import machine

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


def chosen(names: Iterable[str], only: list[str] | None) -> list[str]:
    """The names asked for, all by default: each word by itself if it is a name, else those that begin with it. Exits
    if there are none."""
    found = []
    names = list(names)
    for word in only or [""]:
        matching = [word] if word in names else [name for name in names if name.startswith(word)]
        if not matching:
            raise SystemExit(f"--only must name candidates or their beginnings, got {word!r}; choose of {names}")
        found += [name for name in matching if name not in found]
    return found


def race(
    name: str,
    candidate: Candidate,
    arena: Arena,
    minutes: float,
    seed: int,
    results: Results,
    trial_share: float = TRIAL,
) -> dict[str, Any]:
    """The record of one candidate, which is tested if it was not before. `trial_share`: of the time, for each rate."""
    key = dict(name=name, minutes=minutes, machine=machine())
    trials = []
    for lr in candidate.rates:
        trial = dict(key, kind="trial", lr=lr)
        if (found := results.find(**trial)) is None:
            trained = train(candidate, arena, lr, 0, trial_share * 60 * minutes)
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
