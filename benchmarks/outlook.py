"""Outlook attention, forward and backward: every formulation against the published one, which timm has too.

    python -m benchmarks.outlook [--dtype bf16] [--rounds 9] [--json FILE]

The core is softmax and aggregation; the module has the linear layers as well. Outputs and gradients are compared before
anything is timed. Ends with the ratios of goal 1.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from timm.models.volo import OutlookAttention as TimmOutlookAttention
from torch import Tensor

from benchmarks.timing import DTYPES, Bench, alternate, milliseconds, ratio, ratios
from volo.model.outlook import OutlookAttention
from volo.model.outlook_ops import FORMULATIONS, choose, outlook_aggregate

# B, H, W, C, heads, stride, and the least ratio of the fastest form for the core on a CPU in float32 (goal 1).
GEOMETRIES = (
    ((64, 16, 16, 128, 4, 1), 15),
    ((64, 8, 8, 192, 6, 1), 10),
    ((64, 16, 16, 128, 4, 2), 8),
    ((8, 28, 28, 192, 6, 2), 8),
    ((64, 8, 8, 96, 3, 1), 0.97),
    ((1, 8, 8, 96, 3, 1), 0.97),
)
MODULE_GOAL = 3
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def core(
    name: str, geometry: Sequence[int], dtype: torch.dtype, device: torch.device, compile: bool = False
) -> Callable[[], list[Tensor]]:
    """A call that computes output and both gradients."""
    B, H, W, C, heads, stride = geometry
    h, w = -(-H // stride), -(-W // stride)
    generator = torch.Generator().manual_seed(0)
    values, logits, grad = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in ((B, H, W, C), (B, h, w, heads, 9, 9), (B, H, W, C))
    )
    values.requires_grad_(), logits.requires_grad_()
    aggregate = torch.compile(FORMULATIONS[name]) if compile else partial(outlook_aggregate, op=name)

    def call() -> list[Tensor]:
        out = aggregate(values, logits, 3, stride, 1)
        return [out, *torch.autograd.grad(out, (values, logits), grad)]

    return call


def modules(geometry: Sequence[int], dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], list[Tensor]]]:
    """timm's module and ours with the same weights; each call computes output and the gradients of all parameters."""
    B, H, W, C, heads, stride = geometry
    torch.manual_seed(0)
    theirs = TimmOutlookAttention(C, heads, 3, 1, stride).to(device, dtype)
    ours = OutlookAttention(C, heads, 3, 1, stride).to(device, dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(B, H, W, C, device=device, dtype=dtype, requires_grad=True)
    grad = torch.randn(B, H, W, C, device=device, dtype=dtype)

    def call_of(module: torch.nn.Module) -> Callable[[], list[Tensor]]:
        def call() -> list[Tensor]:
            out = module(x)
            return [out, *torch.autograd.grad(out, (x, *module.parameters()), grad)]

        return call

    return {"timm": call_of(theirs), "ours": call_of(ours)}


def check_same(expected: list[Tensor], found: list[Tensor], dtype: torch.dtype, what: str) -> None:
    for one, other in zip(expected, found, strict=True):
        error = ((one - other).abs().max() / one.abs().max()).item()
        assert error <= TOLERANCE[dtype], f"{what} differs from the published form by {error:.1e}"


def usable(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The formulations that work here."""
    found = []
    for name in FORMULATIONS:
        try:
            choose(name, torch.zeros(1, 4, 4, 2, device=device, dtype=dtype), 1)
            found.append(name)
        except ValueError:
            continue
    return found


def main() -> None:
    bench = Bench(__doc__)
    dtype, device = DTYPES[bench.flags.dtype], bench.device
    names = usable(device, dtype)
    others = [name for name in names if name != "reference"]
    reached = []

    print("core\n\n| B, H, W, C, heads, stride | reference |", " | ".join(f"{n} | ratio (range)" for n in others), "|")
    print("|---" * (2 + 2 * len(others)) + "|")
    for geometry, goal in GEOMETRIES:
        calls = {name: core(name, geometry, dtype, device) for name in names}
        expected = calls["reference"]()
        for name in others:
            check_same(expected, calls[name](), dtype, name)
        times = alternate(calls, bench.flags.rounds)
        cells = [f"{milliseconds(times[n])} | {ratios(times['reference'], times[n])}" for n in others]
        label = ", ".join(map(str, geometry))
        print("|", label, "|", milliseconds(times["reference"]), "|", " | ".join(cells), "|", flush=True)
        chosen = choose("auto", torch.zeros(1, *geometry[1:4], device=device, dtype=dtype), geometry[5])
        reached.append((f"core {label}, {chosen}", ratio(times["reference"], times[chosen]), goal))
        bench.keep(part="core", geometry=geometry, times=times)

    print("\nmodule, linear layers included\n\n| B, H, W, C, heads, stride | timm | ours | ratio (range) |")
    print("|---|---|---|---|")
    for geometry, _ in GEOMETRIES:
        calls = modules(geometry, dtype, device)
        check_same(calls["timm"](), calls["ours"](), dtype, "the module")
        times = alternate(calls, bench.flags.rounds)
        label = ", ".join(map(str, geometry))
        print("|", label, "|", " | ".join(milliseconds(t) for t in times.values()), "|", ratios(*times.values()), "|")
        if geometry[5] == 1 and geometry[0] > 1:
            reached.append((f"module {label}", ratio(*times.values()), MODULE_GOAL))
        bench.keep(part="module", geometry=geometry, times=times)
    bench.finish(reached)


if __name__ == "__main__":
    main()
