"""Side by side timing in one process: candidates in turn, so that a machine whose speed drifts is fair to all."""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], object]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Bench:
    """What the benchmarks of the operator share: flags, a device, figures kept for --json, goals at the end."""

    def __init__(self, doc: str, rounds: int = 9, add_flags: Callable[[argparse.ArgumentParser], None] | None = None):
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        if add_flags:
            add_flags(parser)
        parser.add_argument("--dtype", choices=DTYPES, default="fp32")
        parser.add_argument("--rounds", type=int, default=rounds)
        parser.add_argument("--threads", type=int, default=2, help="on a CPU")
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
        parser.add_argument("--json", type=Path, help="write every time measured, in seconds")
        self.flags = parser.parse_args()
        self.device = torch.device(self.flags.device)
        self.kept: list[dict[str, Any]] = []
        if self.device.type == "cpu":
            torch.set_num_threads(self.flags.threads)
        print(f"{machine()}; {self.flags.dtype}, n = {self.flags.rounds}\n")

    def keep(self, **figures: Any) -> None:
        self.kept.append(figures)

    def finish(self, reached: Sequence[tuple[str, float, float]]) -> None:
        """Prints what was reached beside each goal, which is the CPU's in float32 unless its name says otherwise."""
        print()
        for name, found, goal in reached:
            print(f"{'ok  ' if found >= goal else 'open'} {name}: {found:.2f}x, goal {goal}x")
        if self.flags.json:
            self.flags.json.write_text(json.dumps({"machine": machine(), "figures": self.kept}, indent=1) + "\n")


def alternate(calls: Mapping[str, Call], rounds: int = 9, seconds: float = 0.15) -> dict[str, list[float]]:
    """Seconds of one call, a list of `rounds` for each: round by round every candidate once, after a warm-up.

    A call is repeated within a round for about `seconds`, so that short ones are timed as well as long ones.
    """
    repeats = {name: max(1, round(seconds / _once(call, 1))) for name, call in calls.items()}
    return _transposed([{name: _once(call, repeats[name]) for name, call in calls.items()} for _ in range(rounds)])


def ratio(base: Sequence[float], other: Sequence[float]) -> float:
    """How many times `base` is as long as `other`: the median over the pairs."""
    return statistics.median(one / two for one, two in zip(base, other, strict=True))


def ratios(base: Sequence[float], other: Sequence[float]) -> str:
    """The same with the range, as text."""
    found = [one / two for one, two in zip(base, other, strict=True)]
    return f"{ratio(base, other):.2f}x ({min(found):.2f} to {max(found):.2f})"


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the median that holds whatever the distribution: between two of the values, by the sign test.

    With fewer than six values none is as sure as 95%, and the range is returned.
    """
    ordered, n = sorted(values), len(values)
    below, outside = 0, 2 / 2**n  # chance that the median lies beyond the values with so many left out at each end
    while below + 1 < n / 2 and outside + 2 * math.comb(n, below + 1) / 2**n <= 1 - confidence:
        below += 1
        outside += 2 * math.comb(n, below) / 2**n
    return ordered[below], ordered[-1 - below]


def milliseconds(times: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(times):.2f} ms"


def machine() -> str:
    """What a figure depends on, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {versions}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            info = file.read()
    except OSError:
        return platform.processor()
    name = next((line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")), "")
    extras = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in info]
    return " ".join([name, *extras])


def _once(call: Call, repeats: int) -> float:
    call()
    _wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait()
    return (time.perf_counter() - start) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _transposed(rounds: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [one[name] for one in rounds] for name in rounds[0]}
