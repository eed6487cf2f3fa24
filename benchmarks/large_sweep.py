"""A sweep of many recorded trials: what asking for the next one, the end of one, and the report cost.

    python -m benchmarks.large_sweep [--trials 1000] [--beside CHECKOUT] [--rounds 3] [--json FILE]

Nothing is trained. A journal is filled with trials of the space `architecture`, asha has stopped most of them early,
and their accuracy is a known function of the settings. On copies of it, each in a process of its own: the work of the
driver for a few trials more, with a loop in place of Ray Tune, and the report. With --beside, another version of the
code does the same in turn.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

import tune_spaces
import volo
from volo.settings.config import build_settings
from volo.settings.recipes import recipe_settings
from volo.tuning.options import SweepOptions
from volo.tuning.search.spaces import load_space
from volo.tuning.study import DRAWN, METRICS, SweepStudy

SPACE, EPOCHS, SEED = "architecture", 20, 0
RUNGS, KEPT = (3, 9), 3  # epochs at which one of three continues, as asha does by default
FEWER = 100  # trials, to compare the end of one with
NUM_MORE, NUM_PLANNED = 8, 3  # trials more that a child asks for, the first of which are first points of the space
GOALS = {"ask": (0.2, "s"), "report": (20.0, "s"), "memory": (0.5, "GB")}
ROOT = Path(__file__).parents[1]


def accuracy(params: dict[str, Any]) -> float:
    """What a trial would reach: the form matters most, then the mixing and the width; nothing else does."""
    gained = 0.06 * (params.get("form") == "pyramid") + 0.03 * (params.get("mixing") == "none")
    return 0.55 + gained + 0.02 * (params.get("width", 96) == 128)


def opened(sweep_dir: Path, num_trials: int) -> SweepStudy:
    settings = build_settings(
        recipe_settings("nano"), {"optim": {"epochs": EPOCHS}, "run": {"device": "cpu", "seed": SEED}}
    )
    sweep_dir.mkdir(parents=True, exist_ok=True)
    options = SweepOptions(space=SPACE, num_samples=num_trials + NUM_MORE)
    return SweepStudy(sweep_dir, load_space(SPACE, tune_spaces), settings, options)


def record(study: SweepStudy, num_trials: int) -> None:
    """Adds trials to the journal: the base, then others drawn at random, trained or stopped early, without weights."""
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED))
    reached: dict[int, list[float]] = {epoch: [] for epoch in RUNGS}
    seen: list[dict[str, Any]] = []
    while len(seen) < num_trials:
        trial = drawn.ask()
        settings = study.space.drawn(trial) if seen else {}
        if settings in seen:
            continue
        noise = 0.02 * (len(seen) * 0.618 % 1)
        found = drawn.get_trials(deepcopy=False)[trial.number]
        study.study.add_trial(_ended(found, settings, accuracy(trial.params) + noise, reached))
        study.run_dir(len(seen)).mkdir(parents=True)
        seen.append(settings)


def _ended(trial: FrozenTrial, settings: dict[str, Any], top: float, reached: dict[int, list[float]]) -> FrozenTrial:
    curve, attributes = {}, {}
    for epoch in range(1, EPOCHS + 1):
        curve[epoch] = top * (1 - 0.5 / epoch)
        if epoch in reached:
            values = reached[epoch]
            values.append(curve[epoch])
            attributes[f"completed_rung_{RUNGS.index(epoch)}"] = curve[epoch]  # older versions left these to Optuna
            if trial.number and sorted(values)[-max(1, len(values) // KEPT)] > curve[epoch]:
                break
    return create_trial(
        state=TrialState.COMPLETE if epoch == EPOCHS else TrialState.PRUNED,
        value=curve[epoch],
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={DRAWN: settings, METRICS: {"epoch": epoch, "val/acc1": curve[epoch]}},
        system_attrs=attributes,
        intermediate_values=curve,
    )


def trials_more(study: SweepStudy) -> dict[str, list[float]]:
    """Seconds of `ask`, handing out a trial, and of `end`, from its last epoch to what is said of it, for each."""
    from volo.tuning import sweep
    from volo.tuning.resources import TrialPlan

    found: dict[str, list[float]] = {"ask": [], "end": []}

    def run_all(trials: Any, *args: Any, on_start: Callable, on_end: Callable, **others: Any) -> int:
        """In place of Ray Tune."""
        for _ in range(NUM_MORE):
            start = time.perf_counter()
            work = trials.next_work()
            found["ask"].append(time.perf_counter() - start)
            on_start(work)
            top = accuracy(trials.frozen(work.number).params)
            for epoch in range(1, EPOCHS + 1):
                start = time.perf_counter()
                value = top * (1 - 0.5 / epoch)
                if trials.report(work.number, {"epoch": epoch, "step": 10 * epoch, "val/acc1": value}):
                    break
            on_end(work.number)
            found["end"].append(time.perf_counter() - start)
        return 0

    vars(sweep)["run_all"] = run_all
    sweep.run_trials(study, TrialPlan(num_concurrent=1, num_workers=1, gpus=0.0, num_local=1))
    return {name: times[NUM_PLANNED:] for name, times in found.items()}


def report_drawn(study: SweepStudy) -> dict[str, float]:
    """Seconds of drawing the report, and the most memory that this process has held, in GB."""
    from volo.tuning.report import SweepFacts, write_sweep_report

    facts = SweepFacts("large", SPACE, "nano", ["val/acc1"], EPOCHS, study.run_dir)
    start = time.perf_counter()
    write_sweep_report(study.study, study.sweep_dir, facts)
    seconds = time.perf_counter() - start
    return {"report": seconds, "memory": 1024e-9 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


PARTS: dict[str, Callable[[SweepStudy], dict[str, Any]]] = {"trials": trials_more, "report": report_drawn}


def in_child(code: Path, sweep_dir: Path, part: str, num_trials: int) -> dict[str, Any]:
    """What a part of this file measures, in its own process and with this version of the code, on a copy of a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(sweep_dir, Path(folder) / sweep_dir.name)
        done = subprocess.run(
            [sys.executable, __file__, "--measure", part, copy, str(num_trials)],
            cwd=code, env={**os.environ, "PYTHONPATH": str(code)}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def one_round(codes: Sequence[Path], sweeps: dict[int, Path]) -> dict[str, dict[str, Any]]:
    """Of each version: seconds of `ask` and `end` at the larger number of trials, of `end` at the smaller, the report's
    and its memory."""
    fewer, more = sorted(sweeps)
    found = {}
    for code in codes:
        few, many = (in_child(code, sweeps[number], "trials", number) for number in (fewer, more))
        report = in_child(code, sweeps[more], "report", more)
        medians = {"ask": many["ask"], "end": many["end"], "end of few": few["end"]}
        found[str(code)] = {name: statistics.median(times) for name, times in medians.items()} | report
    return found


def show(code: str, rounds: Sequence[dict[str, dict[str, float]]]) -> None:
    values = {name: [one[code][name] for one in rounds] for name in rounds[0][code]}
    grows = [end / few for end, few in zip(values["end"], values["end of few"], strict=True)]

    def spread(found: Sequence[float], unit: str, scale: float = 1.0) -> str:
        middle, low, high = (scale * value for value in (statistics.median(found), min(found), max(found)))
        return f"{middle:.3g}{unit} ({low:.3g} to {high:.3g})"

    cells = [spread(values["ask"], " s"), spread(values["end"], " ms", 1e3), spread(grows, " times")]
    print("|", " | ".join([code, *cells, spread(values["report"], " s"), spread(values["memory"], " GB")]), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=Path, help="a checkout of another version, to be measured in turn")
    parser.add_argument("--json", type=Path, help="write every figure measured")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        part, folder, num_trials = flags.measure
        assert Path(volo.__file__).is_relative_to(Path.cwd()), f"measures {volo.__file__}"
        print(json.dumps(PARTS[part](opened(Path(folder), int(num_trials)))))
        return
    codes = [ROOT, *([flags.beside.resolve()] if flags.beside else [])]
    with tempfile.TemporaryDirectory() as folder:
        sweeps = {number: Path(folder) / f"of{number}" for number in (FEWER, flags.trials)}
        for number, sweep_dir in sweeps.items():
            record(opened(sweep_dir, number), number)
        rounds = [one_round(codes[:: 1 if turn % 2 else -1], sweeps) for turn in range(flags.rounds)]
    from benchmarks.timing import machine  # loads torch, which the report does not

    print(f"\n{machine()}, Optuna {optuna.__version__}; {flags.trials:,} trials, n = {flags.rounds}\n")
    print(f"| code | ask | end of a trial | end, against {FEWER} trials | report | its memory |\n" + "|---" * 6 + "|")
    for code in codes:
        show(str(code), rounds)
    for name, (goal, unit) in GOALS.items():
        reached = statistics.median(one[str(ROOT)][name] for one in rounds)
        print(f"{'ok  ' if reached <= goal else 'open'} {name}: {reached:.2g} {unit}, goal {goal} {unit}")
    if flags.json:
        flags.json.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
