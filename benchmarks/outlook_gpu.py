"""Outlook attention's core on a GPU: the Triton kernels against the published form, eager and under torch.compile.

    python -m benchmarks.outlook_gpu [--dtype bf16] [--rounds 9] [--json FILE]

The core is softmax and aggregation, forward and backward, on batches that fill the device. Each candidate is a CUDA
graph, so that what Python and the launches cost is left out for all of them. Bandwidth counts every input and gradient
once: it is a share of what copying a gibibyte reaches. Ends with the ratios of goal 2.
"""

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.outlook import GEOMETRIES, check_same, core
from benchmarks.timing import DTYPES, Bench, alternate, milliseconds, ratio, ratios

BATCHES = 16  # as many images as `benchmarks.outlook` takes on a CPU, times this
AGAINST_EAGER, AGAINST_COMPILED, OF_COPY = 5, 2, 0.6


def graphed(call: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    """The same work replayed without Python; results are those of the newest replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> list[Tensor]:
        graph.replay()
        return results

    return replay


def bytes_moved(geometry: Sequence[int], dtype: torch.dtype) -> int:
    """The least a forward and a backward pass read and write: values and logits twice, output and its gradient, both
    gradients."""
    B, H, W, C, heads, stride = geometry
    maps, logits = B * H * W * C, B * -(-H // stride) * -(-W // stride) * heads * 81
    return dtype.itemsize * (5 * maps + 3 * logits)


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    times = alternate({"copy": lambda: target.copy_(source)}, rounds=7)
    return 2 * len(source) / statistics.median(times["copy"])


def main() -> None:
    bench = Bench(__doc__)
    dtype, device = DTYPES[bench.flags.dtype], bench.device
    copied = copy_rate(device)
    print(f"a copy moves {copied / 1e12:.2f} TB/s\n")
    print("| B, H, W, C, heads, stride | published | compiled | fused | published / fused | compiled / fused | TB/s |")
    print("|---" * 7 + "|")
    reached = []
    for (images, *rest), _ in GEOMETRIES[:4]:
        geometry = (BATCHES * images, *rest)
        label = ", ".join(map(str, geometry))
        eager = {name: core(name, geometry, dtype, device) for name in ("reference", "fused")}
        torch.compiler.reset()
        calls = {
            "reference": graphed(eager["reference"]),
            "compiled": graphed(core("reference", geometry, dtype, device, compile=True)),
            "fused": graphed(eager["fused"]),
        }
        expected = core("reference", geometry, torch.float32, device)()
        check_same(expected, [found.float() for found in calls["fused"]()], dtype, "fused")
        times = alternate(calls, bench.flags.rounds)
        rate = bytes_moved(geometry, dtype) / statistics.median(times["fused"])
        cells = [milliseconds(each) for each in times.values()]
        cells += [ratios(times[name], times["fused"]) for name in ("reference", "compiled")]
        print("|", " | ".join([label, *cells, f"{rate / 1e12:.2f}"]), "|", flush=True)
        reached += [
            (f"{label}, against eager", ratio(times["reference"], times["fused"]), AGAINST_EAGER),
            (f"{label}, against compiled", ratio(times["compiled"], times["fused"]), AGAINST_COMPILED),
            (f"{label}, bandwidth over a copy's", rate / copied, OF_COPY),
        ]
        bench.keep(geometry=geometry, times=times, bytes_per_s=rate, copy_bytes_per_s=copied)
    bench.finish(reached)


if __name__ == "__main__":
    main()
