"""The fastest formulation by measurement: a table that is looked up; nothing is timed during a run.

Ratios are the time of the published formulation over the time of this one, forward and backward, from
benchmarks/RESULTS.md.
"""

from typing import NamedTuple

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Row(NamedTuple):
    """A formulation and when to use it; None matches any device type, dtype, stride, or number of pixels H*W."""

    formulation: str
    device: str | None
    dtypes: tuple[torch.dtype, ...] | None
    stride: int | None
    max_pixels: int | None
    source: str


_CORE = "measured in float32: RESULTS.md, outlook attention"
_ON_GPU = "measured on an H100 in bf16: RESULTS.md, on a GPU, 22.4x to 38.3x"
_OPEN = "not measured on a GPU"

# The first row that matches, and whose formulation can be used, is taken.
TABLE = (
    Row("cpu", "cpu", FLOATS, 1, None, f"{_CORE}, 8x8 and 16x16: 16.71x to 31.01x, one image 5.39x"),
    Row("cpu", "cpu", FLOATS, None, None, f"{_CORE}, stride 2, 16x16 and 28x28: 12.10x to 13.94x"),
    Row("fused", "cuda", FLOATS, None, None, _ON_GPU),
    Row("dense", "cuda", None, 1, 256, _OPEN),
    Row("reference", "cuda", None, None, None, _OPEN),
    Row("dense", None, None, 1, 256, f"{_CORE}, 8x8 and 16x16: 2.06x to 2.46x; at stride 2 0.14x to 0.44x"),
    Row("reference", None, None, None, None, "the published formulation"),
)


def by_measurement(device: str, dtype: torch.dtype, num_pixels: int, stride: int) -> list[str]:
    """The formulations whose rows match, fastest first; the last one can always be used."""
    return [
        row.formulation
        for row in TABLE
        if row.device in (None, device)
        and (row.dtypes is None or dtype in row.dtypes)
        and row.stride in (None, stride)
        and (row.max_pixels is None or num_pixels <= row.max_pixels)
    ]
