"""Side by side timing in one process: candidates in turn, so that a machine whose speed drifts is fair to all."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Call = Callable[[], object]


def alternate(calls: Mapping[str, Call], rounds: int = 9, seconds: float = 0.15) -> dict[str, list[float]]:
    """Seconds of one call, a list of `rounds` for each: round by round every candidate once, after a warm-up.

    A call is repeated within a round for about `seconds`, so that short ones are timed as well as long ones.
    """
    repeats = {name: max(1, round(seconds / _once(call, 1))) for name, call in calls.items()}
    return _transposed([{name: _once(call, repeats[name]) for name, call in calls.items()} for _ in range(rounds)])


def ratios(base: Sequence[float], other: Sequence[float]) -> str:
    """How many times `base` is as long as `other`: the median over the pairs, and the range."""
    found = [one / two for one, two in zip(base, other, strict=True)]
    return f"{statistics.median(found):.2f}x ({min(found):.2f} to {max(found):.2f})"


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
