"""Outlook core (softmax and aggregation), forward and backward: the formulations that work here against the published.

    python -m benchmarks.outlook_core [--dtype bf16] [--rounds 9]
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.timing import alternate, machine, milliseconds, ratios
from volo.model.outlook_ops import FORMULATIONS, limit, outlook_aggregate

# B, H, W, C, heads, stride
GEOMETRIES = (
    (64, 16, 16, 128, 4, 1),
    (64, 8, 8, 192, 6, 1),
    (64, 8, 8, 96, 3, 1),
    (64, 16, 16, 128, 4, 2),
    (8, 28, 28, 192, 6, 2),
    (1, 8, 8, 96, 3, 1),
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def core(name: str, geometry: tuple, dtype: torch.dtype) -> Callable[[], None]:
    """A call that computes output and both gradients."""
    B, H, W, C, heads, stride = geometry
    h, w = -(-H // stride), -(-W // stride)
    values = torch.randn(B, H, W, C, dtype=dtype, requires_grad=True)
    logits = torch.randn(B, h, w, heads, 9, 9, dtype=dtype, requires_grad=True)
    grad = torch.randn(B, H, W, C, dtype=dtype)

    def call() -> None:
        out = outlook_aggregate(values, logits, 3, stride, 1, op=name)
        torch.autograd.grad(out, (values, logits), grad)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(f"{machine()}; {flags.dtype}, n = {flags.rounds}\n")
    probe = torch.empty(1, 1, 1, 1, dtype=DTYPES[flags.dtype])
    names = [name for name in FORMULATIONS if limit(name, probe) is None]
    others = [name for name in names if name != "reference"]
    print("| B, H, W, C, heads, stride | reference |", " | ".join(f"{name} | ratio (range)" for name in others), "|")
    print("|---" * (2 + 2 * len(others)) + "|")
    for geometry in GEOMETRIES:
        calls = {name: core(name, geometry, DTYPES[flags.dtype]) for name in names}
        times = alternate(calls, flags.rounds)
        cells = [f"{milliseconds(times[name])} | {ratios(times['reference'], times[name])}" for name in others]
        print("|", ", ".join(map(str, geometry)), "|", milliseconds(times["reference"]), "|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
