"""Global attention on a CPU, forward and backward: two matrix products and a softmax against PyTorch's fused form.

python -m benchmarks.attention
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import alternate, machine, milliseconds, ratios

TOKENS = (16, 64, 128, 196, 256)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1).to(v.dtype) @ v


def both_ways(attend: Callable, dtype: torch.dtype, num_tokens: int, batch: int = 64) -> Callable[[], object]:
    q, k, v = (torch.randn(batch, 6, num_tokens, 32, dtype=dtype, requires_grad=True) for _ in range(3))
    grad = torch.randn(batch, 6, num_tokens, 32, dtype=dtype)
    return lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), grad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(f"{machine()}; 64 images, 6 heads of 32, n = {flags.rounds}\n")
    print("| tokens | dtype | plain | fused | fused / plain (range) |\n|---|---|---|---|---|")
    for num_tokens in TOKENS:
        for dtype in (torch.float32, torch.bfloat16):
            forms: dict[str, Callable] = {"plain": plain, "fused": F.scaled_dot_product_attention}
            times = alternate({name: both_ways(form, dtype, num_tokens) for name, form in forms.items()}, flags.rounds)
            cells = [milliseconds(times[name]) for name in forms] + [ratios(times["fused"], times["plain"])]
            print("|", " | ".join([str(num_tokens), str(dtype).removeprefix("torch."), *cells]), "|")


if __name__ == "__main__":
    main()
