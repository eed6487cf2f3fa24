"""Peak memory of a forward and backward pass: OutlookAttention, and a whole model, ours against timm's.

    python -m benchmarks.memory [--json FILE]

On a CPU (Linux) each candidate runs in its own process, and what counts is how far its resident memory rises above
where it stood before the pass; on a GPU it is what PyTorch allocates. Ends with the ratios of goal 4: how many times
ours the peer's is.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.outlook import modules
from benchmarks.timing import DTYPES, Bench
from benchmarks.train_step import small

GEOMETRIES = ((64, 16, 16, 128, 4, 1), (64, 8, 8, 192, 6, 1), (8, 28, 28, 192, 6, 2))
BATCH, WHOLE = 64, (128, 4, 2)  # and width, heads, patch size of the whole model
GOAL = 2  # the peer needs at least twice as much
CHILD = "VOLO_BENCH_MEMORY"


def passes(candidate: dict, device: torch.device) -> Callable[[], object]:
    """What to measure: of the module or the whole model, of `ours` or `timm`."""
    if candidate["part"] == "module":
        return modules(candidate["geometry"], DTYPES[candidate["dtype"]], device)[candidate["name"]]
    model = small(*WHOLE)[candidate["name"]].to(device)
    images = torch.randn(BATCH, 3, 32, 32, device=device)
    return lambda: model(images).sum().backward()


def peak(candidate: dict, device: torch.device) -> int:
    """Bytes above what stood before, of a pass after one that warmed up."""
    call = passes(candidate, device)
    if device.type == "cuda":
        call()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    call()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts over
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def in_child(candidate: dict, device: torch.device) -> int:
    """The same in its own process, whose allocator gives freed memory back at once."""
    environment = {
        **os.environ, CHILD: json.dumps({**candidate, "device": str(device)}),
        "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    if CHILD in os.environ:
        candidate = json.loads(os.environ[CHILD])
        torch.set_num_threads(2)
        print(peak(candidate, torch.device(candidate["device"])))
        return
    bench = Bench(__doc__, rounds=1)
    measure = in_child if bench.device.type == "cpu" else peak
    reached = []
    print("| what | timm | ours | timm / ours |\n|---|---|---|---|")
    parts = [("module", geometry) for geometry in GEOMETRIES] + [("model", (BATCH, *WHOLE))]
    for part, geometry in parts:
        of_part = dict(part=part, geometry=geometry, dtype=bench.flags.dtype)
        found = {name: measure({**of_part, "name": name}, bench.device) for name in ("timm", "ours")}
        times = found["timm"] / found["ours"]
        label = f"{part} {', '.join(map(str, geometry))}"
        sizes = [f"{found[name] / 2**20:.1f} MiB" for name in ("timm", "ours")]
        print("|", " | ".join([label, *sizes, f"{times:.2f}x"]), "|", flush=True)
        if part == "module":
            reached.append((label, times, GOAL))
        bench.keep(part=part, geometry=geometry, bytes=found)
    bench.finish(reached)


if __name__ == "__main__":
    main()
