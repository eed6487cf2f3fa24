"""Trials per hour: one-worker trials in reused actors, against the same sweep with one TorchTrainer for each trial.

    python -m benchmarks.sweep [--rounds 3] [--trials 8] [--epochs 2] [--images 1500] [--json FILE]

Both draw the same settings, none is stopped early, two run at a time, one core each, on one existing Ray cluster
already; the order alternates. Times are of whole sweeps, from the first trial asked for to the last one ended.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import tune_spaces
from benchmarks.timing import machine
from volo.cluster.connect import connected
from volo.runs.folder import open_data
from volo.runs.records import read_records
from volo.settings.config import Settings, build_settings
from volo.settings.recipes import recipe_settings
from volo.tuning.options import SweepOptions
from volo.tuning.resources import plan_trials
from volo.tuning.search.spaces import load_space
from volo.tuning.study import SweepStudy
from volo.tuning.sweep import run_trials

GOAL = 3.0
KINDS = {"reused actors": False, "a TorchTrainer each": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=1500, help="to train on; with the epochs, how long a trial is")
    parser.add_argument("--json", type=Path, help="write every time measured, in seconds")
    flags = parser.parse_args()
    settings = build_settings(
        recipe_settings("quickstart"),
        {
            "data": {"train_images": flags.images, "val_fraction": 0.02},
            "optim": {"epochs": flags.epochs},
            "run": {"device": "cpu"},
        },
    )
    open_data(settings.resolved())
    with tempfile.TemporaryDirectory() as folder, connected(None, needs_dashboard=True):
        rounds = [measured(Path(folder), number, settings, flags.trials) for number in range(flags.rounds)]
    report(rounds, flags.trials)
    if flags.json:
        flags.json.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1) + "\n")


def measured(folder: Path, number: int, settings: Settings, num_trials: int) -> dict[str, dict[str, float]]:
    """Of both kinds: seconds of the sweep, and of the training in a trial (median)."""
    order = list(KINDS) if number % 2 == 0 else list(KINDS)[::-1]
    return {kind: one_sweep(folder / f"{number}-{KINDS[kind]}", settings, num_trials, KINDS[kind]) for kind in order}


def one_sweep(sweep_dir: Path, settings: Settings, num_trials: int, by_train: bool) -> dict[str, float]:
    sweep_dir.mkdir()
    options = SweepOptions(space="mix", num_samples=num_trials, sampler="random", pruner="none", max_concurrent="2")
    study = SweepStudy(sweep_dir, load_space("mix", tune_spaces), settings, options)
    plan = dataclasses.replace(plan_trials(options, settings.run), by_train=by_train)
    start = time.perf_counter()
    run_trials(study, plan)
    seconds = time.perf_counter() - start
    assert all(trial.state.name == "COMPLETE" for trial in study.trials), "a trial failed"
    return {"sweep": seconds, "trial": statistics.median(trained_s(study, number) for number in range(num_trials))}


def trained_s(study: SweepStudy, number: int) -> float:
    """Seconds in the steps of a trial, from its rates."""
    settings = study.base
    epochs = [record for record in read_records(study.run_dir(number)) if record["kind"] == "epoch"]
    return sum(settings.data.train_images / record["images_per_s"] for record in epochs)


def report(rounds: list[dict[str, dict[str, float]]], num_trials: int) -> None:
    print(f"\n{machine()}\n{num_trials} trials, two at a time, n = {len(rounds)}\n")
    print("| trials | per hour | range | seconds of training in a trial |\n|---|---|---|---|")
    for kind in KINDS:
        found = [num_trials / one[kind]["sweep"] * 3600 for one in rounds]
        trained = statistics.median(one[kind]["trial"] for one in rounds)
        print(f"| {kind} | {statistics.median(found):.0f} | {min(found):.0f} to {max(found):.0f} | {trained:.1f} |")
    one, other = KINDS
    ratios = [pair[other]["sweep"] / pair[one]["sweep"] for pair in rounds]
    verdict = "reached" if statistics.median(ratios) >= GOAL else "missed"
    print(f"\nratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), goal {GOAL}: {verdict}")


if __name__ == "__main__":
    main()
