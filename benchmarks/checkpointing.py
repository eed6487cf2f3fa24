"""What one checkpoint costs training: how long the loop waits for it, and how much longer the steps beside it take.

    python -m benchmarks.checkpointing [--model small] [--rounds 9] [--bucket] [--json FILE]

The loop's own session and saver write to a real folder; with --bucket also to a local S3 server that answers each
request 100 ms late. Blocks of equal steps alternate, one with a save at its
beginning, one without; the whole write falls into the block. Costs are given as parts of an epoch of 60 s, saved once.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import slow_s3
from benchmarks.timing import machine
from volo.runs import checkpoint
from volo.settings.config import build_settings
from volo.settings.recipes import recipe_settings
from volo.training.launch import opened_run
from volo.training.session import Session, open_session
from volo.training.world import single_process

EPOCH_S = 60.0
LATE_S = 0.1
BLOCKED_GOAL, COST_GOAL = 0.01, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", help="a recipe")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--block-s", type=float, default=8.0, help="seconds of a block, about")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bucket", action="store_true", help="keep the run on object storage, too")
    parser.add_argument("--json", type=Path, help="write every time measured, in seconds")
    flags = parser.parse_args()
    with contextlib.ExitStack() as stack:
        places = {"disk": stack.enter_context(tempfile.TemporaryDirectory(dir="."))}
        if flags.bucket:
            os.environ["VOLO_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(dir="."))
            places["bucket"] = stack.enter_context(slow_s3.started(LATE_S))
        times = {name: saved_to(place, name, flags) for name, place in places.items()}
    if flags.json:
        flags.json.write_text(json.dumps({"machine": machine(), "times": times}, indent=1) + "\n")


def saved_to(place: str, name: str, flags: argparse.Namespace) -> dict[str, list[float]]:
    """The times of `measured` for a run that is kept there."""
    settings = build_settings(
        recipe_settings(flags.model),
        {
            "data": {"dataset": "shapes"},
            "optim": {"batch_size": flags.batch_size},
            "run": {"output_dir": place, "num_workers": 0},
        },
    ).resolved()
    world = single_process()
    with (
        opened_run(settings, world) as (_, home),
        open_session(settings, world, home=home) as session,
    ):
        times = measured(session, flags.rounds, flags.block_s)
    newest = checkpoint.pointed(settings.run_dir, "last")
    assert newest is not None, "it has saved"
    size: int = sum(file.stat().st_size for file in newest.iterdir())
    report(f"{flags.model}, {name}", size, times)
    return times


def measured(session: Session, rounds: int, block_s: float) -> dict[str, list[float]]:
    """Seconds of each block without a save, of each with one, and of those that the loop waited for it."""
    batch = session.data.batches.batch(0, 0)
    num_steps = 2 + int(block_s / _steps(session, batch, 2) * 2)
    session.recorder.save()  # finds the buffers
    session.recorder.saver.wait()
    times: dict[str, list[float]] = {"without": [], "with": [], "blocked": []}
    for _ in range(rounds):
        times["without"].append(_steps(session, batch, num_steps))
        start = time.perf_counter()
        session.recorder.save()
        times["blocked"].append(time.perf_counter() - start)
        _steps(session, batch, num_steps)
        session.recorder.saver.wait()
        times["with"].append(time.perf_counter() - start)
    return times


def _steps(session: Session, batch, num_steps: int) -> float:
    """Seconds of so many updates, the last one read back."""
    start = time.perf_counter()
    for _ in range(num_steps):
        loss_sum, _ = session.learner.update(batch, 1e-4)
    loss_sum.item()
    return time.perf_counter() - start


def report(model: str, size: int, times: dict[str, list[float]]) -> None:
    print(f"{machine()}; {model}, {size / 2**20:.0f} MiB a checkpoint, n = {len(times['with'])}")
    cost = [one - other for one, other in zip(times["with"], times["without"], strict=True)]
    print(f"block without a save: {statistics.median(times['without']):.2f} s")
    for name, found, goal in (("loop waits", times["blocked"], BLOCKED_GOAL), ("whole cost", cost, COST_GOAL)):
        middle = statistics.median(found)
        held = "ok  " if middle / EPOCH_S <= goal else "open"
        spread = f"{1e3 * min(found):.0f} to {1e3 * max(found):.0f} ms"
        print(f"{held} {name}: {1e3 * middle:.0f} ms ({spread}), {middle / EPOCH_S:.2%} of 60 s, goal {goal:.0%}")


if __name__ == "__main__":
    main()
