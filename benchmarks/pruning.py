"""Early stopping replayed over learning curves that were recorded once; and TPE against random on what they teach.

    python -m jobs.tune --space architecture --sampler random --pruner none --epochs 20 --num-samples 24 --sweep-name s
    python -m benchmarks.pruning record outputs/s --output curves.json
    python -m benchmarks.pruning replay curves.json [--orders 20] [--pruner asha] [--json FILE]
    python -m benchmarks.pruning tpe curves.json [--trials 50] [--seeds 3] [--json FILE]

`replay` lets the trials arrive in shuffled orders, a few at a time, each epoch as long as it was; whether one continues
is asked of a sweep's own study and pruner. The first curve, the base's, is first in every order and is never stopped.
Nothing is trained. Regret is by how much the winner's last epoch is worse than the best one of all curves; beside it
stands that of the same epochs spent on whole trials, in the same order. A winner is as good as the best where its
regret is within what two seeds of one setting differ by: --noise, else what the sweep has confirmed (--confirm-top),
else 0.01.

`tpe` searches the sweep's space with both samplers for the highest value of a function of
benchmarks/replay/samplers.py.
"""

import argparse
import dataclasses
import heapq
import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.replay.curves import Curve, Recording, recorded
from benchmarks.replay.samplers import compare
from benchmarks.timing import machine
from volo.settings.config import build_settings
from volo.tuning.options import SweepObjective, SweepOptions
from volo.tuning.search.spaces import Space
from volo.tuning.study import SweepStudy

SHARE_GOAL, NOISE = 0.45, 0.01


@dataclass(frozen=True)
class Outcome:
    """One replay: shares of what all curves took, the winner's number, its regret, and that of whole trials."""

    epochs: float
    time: float
    winner: int
    regret: float
    regret_of_whole: float


def main() -> None:
    flags = _parser().parse_args()
    flags.run(flags)


def record(flags: argparse.Namespace) -> None:
    recording = recorded(flags.sweep)
    flags.output.write_text(json.dumps(dataclasses.asdict(recording), indent=1) + "\n")
    print(f"{len(recording.curves)} curves of {len(recording.curves[0].values)} epochs: {flags.output}")


def replay(flags: argparse.Namespace) -> None:
    recording = Recording.read(flags.curves)
    if flags.equal_times:
        curves = [dataclasses.replace(curve, seconds=[1.0] * len(curve.values)) for curve in recording.curves]
        recording = dataclasses.replace(recording, curves=curves)
    options = SweepOptions(
        "recorded", num_samples=len(recording.curves), sampler="random", pruner=flags.pruner,
        grace_period=flags.grace_period, reduction_factor=flags.reduction_factor, objectives=(recording.objective,),
    )  # fmt: skip
    options.check()
    orders = (shuffled(len(recording.curves), number) for number in range(flags.orders))
    outcomes = [replayed(recording, order, options, flags.concurrent) for order in orders]
    noise = next(value for value in (flags.noise, recording.noise, NOISE) if value is not None)
    report(recording, outcomes, noise)
    _keep(flags.json, [dataclasses.asdict(outcome) for outcome in outcomes])


def tpe(flags: argparse.Namespace) -> None:
    _keep(flags.json, compare(Recording.read(flags.curves), flags.trials, flags.seeds))


def shuffled(count: int, seed: int) -> list[int]:
    """An order of arrival, in which the base stays first."""
    others = list(range(1, count))
    random.Random(seed).shuffle(others)
    return [0, *others]


def replayed(recording: Recording, order: Sequence[int], options: SweepOptions, num_concurrent: int) -> Outcome:
    """Lets the curves arrive in `order`, positions in `recording.curves`."""
    curves = [recording.curves[place] for place in order]
    with tempfile.TemporaryDirectory() as folder:
        study = _study(recording, Path(folder), options)
        trained = _played(study, curves, recording.metric, num_concurrent)
        winner = curves[study.study.best_trial.number]
    best = max(recording.ends)
    num_whole = max(1, sum(trained) // study.num_epochs)
    seconds = sum(sum(curve.seconds[:num]) for curve, num in zip(curves, trained, strict=True))
    return Outcome(
        epochs=sum(trained) / (study.num_epochs * len(curves)),
        time=seconds / sum(sum(curve.seconds) for curve in curves),
        winner=winner.number,
        regret=best - recording.sign * winner.values[-1],
        regret_of_whole=best - max(recording.ends[place] for place in order[:num_whole]),
    )


def _study(recording: Recording, folder: Path, options: SweepOptions) -> SweepStudy:
    """Of trials that differ in nothing but the number that they arrive with."""
    objective = SweepObjective.parse(recording.objective)

    def draw(trial) -> dict:
        return {"run": {"seed": 1 + trial.number}}

    space = Space("recorded", None, objective.metric, objective.mode, (), draw, "")
    return SweepStudy(folder, space, build_settings(recording.settings, {"run": {"seed": 0}}), options)


def _played(study: SweepStudy, curves: Sequence[Curve], metric: str, num_concurrent: int) -> list[int]:
    """How many epochs of each curve were trained, `num_concurrent` of them at a time."""
    trained = [0] * len(curves)
    running: list[Any] = []

    def start(now: float) -> None:
        if work := study.next_work():
            heapq.heappush(running, (now + curves[work.number].seconds[0], work.number))

    for _ in range(num_concurrent):
        start(0.0)
    while running:
        now, number = heapq.heappop(running)
        trained[number] += 1
        epoch = trained[number]
        if study.report(number, {"epoch": epoch, "step": epoch, metric: curves[number].values[epoch - 1]}):
            start(now)
        else:
            heapq.heappush(running, (now + curves[number].seconds[epoch], number))
    return trained


def report(recording: Recording, outcomes: Sequence[Outcome], noise: float) -> None:
    print(f"{len(recording.curves)} curves of {len(recording.curves[0].values)} epochs, {recording.objective}\n")
    print("| order | epochs | time | winner | its regret | regret of whole trials |\n|---|---|---|---|---|---|")
    for number, one in enumerate(outcomes):
        regrets = f"{one.regret:.4f} | {one.regret_of_whole:.4f}"
        print(f"| {number} | {one.epochs:.1%} | {one.time:.1%} | {one.winner} | {regrets} |")
    print("\n| | median | nine of ten up to |\n|---|---|---|")
    for name in ("epochs", "time", "regret", "regret_of_whole"):
        found = sorted(getattr(one, name) for one in outcomes)
        print(f"| {name} | {median(found):.4f} | {found[math.ceil(0.9 * len(found)) - 1]:.4f} |")
    print(f"\n{verdict(outcomes, noise)}")


def verdict(outcomes: Sequence[Outcome], noise: float) -> str:
    cheap = [one.epochs <= SHARE_GOAL for one in outcomes]
    good = [one.regret <= noise for one in outcomes]
    both = sum(map(all, zip(cheap, good, strict=True)))
    return (
        f"at most {SHARE_GOAL:.0%} of the epochs in {sum(cheap)} of {len(outcomes)} orders, the winner within "
        f"{noise:.4f} of the best in {sum(good)}, both in {both}: {'reached' if both == len(outcomes) else 'missed'}"
    )


def _keep(path: Path | None, figures: list[dict]) -> None:
    if path:
        path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("record", help="keep the curves of a sweep without early stopping")
    one.add_argument("sweep", type=Path, help="its folder")
    one.add_argument("--output", type=Path, required=True)
    one.set_defaults(run=record)
    one = commands.add_parser("replay", help="stop them early, in shuffled orders")
    one.add_argument("curves", type=Path)
    one.add_argument("--orders", type=int, default=20)
    one.add_argument("--concurrent", type=int, default=2)
    one.add_argument("--pruner", choices=("asha", "hyperband", "median"), default="asha")
    one.add_argument("--grace-period", type=int)
    one.add_argument("--reduction-factor", type=int)
    one.add_argument("--equal-times", action="store_true", help="as if every epoch took equally long")
    one.add_argument("--noise", type=float, help="by how much two seeds of one setting differ at their ends")
    one.add_argument("--json", type=Path)
    one.set_defaults(run=replay)
    one = commands.add_parser("tpe", help="TPE against random")
    one.add_argument("curves", type=Path)
    one.add_argument("--trials", type=int, default=50)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--json", type=Path)
    one.set_defaults(run=tpe)
    return parser


if __name__ == "__main__":
    main()
