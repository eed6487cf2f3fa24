"""Ray's steady-state cost: the same loop on Ray and under torchrun, on this machine, two processes each.

    python -m benchmarks.ray_overhead [--pairs 10] [--json FILE]

Whole jobs in turn, each a user's command: Ray starts its own cluster and ends it, so that torchrun has the machine
to itself. The rate is what a run writes into metrics.jsonl, without its first steps. The order within a pair changes
from pair to pair. Goal: Ray costs at most 5% on two cores, with steps of at least 200 ms.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import machine, median_interval
from volo.runs.records import read_records

GOAL = 0.05
LEAST_STEP_S = 0.2
LIMIT_S = 600.0
LOG_EVERY = 5  # steps


def train(launcher: str, run_dir: Path, flags: argparse.Namespace) -> list[float]:
    """Images per second of every LOG_EVERY steps, the first `flags.skip` steps left out."""
    job = [
        "-m", "jobs.train", "--dataset", "shapes", "--model", flags.model, "--batch-size", str(flags.batch_size),
        "--val-fraction", "0", "--device", "cpu", "--max-steps", str(flags.skip + flags.steps),
        "--log-every", str(LOG_EVERY), "--output-dir", str(run_dir.parent), "--run-name", run_dir.name,
    ]  # fmt: skip
    if launcher == "ray":
        command = [*job, "--num-workers", "2", "--address", "local"]
    else:
        command = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", *job]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        sys.exit(f"the job on {launcher} must end well, got exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    records = [record for record in read_records(run_dir) if record["kind"] == "step"]
    return [record["images_per_s"] for record in records if record["step"] > flags.skip]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return opened.getsockname()[1]


def overall(rates: Sequence[float]) -> float:
    """Images per second over stretches of as many images each."""
    return statistics.harmonic_mean(rates)


def measure(flags: argparse.Namespace) -> list[dict[str, list[float]]]:
    pairs = []
    for number in range(flags.pairs):
        order = ("torchrun", "ray") if number % 2 else ("ray", "torchrun")
        with tempfile.TemporaryDirectory() as folder:
            pair = {launcher: train(launcher, Path(folder, launcher), flags) for launcher in order}
        pairs.append(pair)
        ray, torchrun = overall(pair["ray"]), overall(pair["torchrun"])
        print(f"| {number + 1} | {torchrun:.1f} | {ray:.1f} | {torchrun / ray:.3f} |", flush=True)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--batch-size", type=int, default=192, help="of both processes together")
    parser.add_argument("--skip", type=int, default=10, help="first steps left out")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write every rate measured")
    flags = parser.parse_args()
    print(f"{machine()}; {flags.model}, batch {flags.batch_size}, n = {flags.pairs} pairs, {flags.steps} steps each\n")
    print("| pair | torchrun, images/s | Ray, images/s | time on Ray over torchrun |\n|---|---|---|---|")
    pairs = measure(flags)
    ratios = [overall(pair["torchrun"]) / overall(pair["ray"]) for pair in pairs]
    step_s = flags.batch_size / statistics.median(overall(pair["torchrun"]) for pair in pairs)
    low, high = median_interval(ratios)
    found = statistics.median(ratios) - 1
    print(f"\nsteps of {1000 * step_s:.0f} ms on {os.cpu_count()} cores")
    if step_s < LEAST_STEP_S:
        print(f"too short: they must take {1000 * LEAST_STEP_S:.0f} ms; raise --batch-size")
    interval = f"95% interval of the median {low - 1:+.1%} to {high - 1:+.1%}"
    print(f"{'ok  ' if found <= GOAL else 'open'} Ray's cost: {found:+.1%}, {interval}, goal {GOAL:.0%}")
    if flags.json:
        settings = {name: value for name, value in vars(flags).items() if name != "json"}
        flags.json.write_text(json.dumps({"machine": machine(), **settings, "images_per_s": pairs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
