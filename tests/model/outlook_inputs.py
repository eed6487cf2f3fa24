"""Inputs of outlook aggregation, and what the published formulation makes of them in float64."""

import torch
from torch import Tensor

from volo.model.outlook_ops import reference


def make_inputs(B, H, W, heads, d, K=3, S=1, dtype=torch.float32, scale=1.0) -> tuple[Tensor, Tensor, int, int, int]:
    generator = torch.Generator().manual_seed(B * H * W + d)
    P = K // 2
    h, w = ((size + 2 * P - K) // S + 1 for size in (H, W))
    values = torch.randn(B, H, W, heads * d, generator=generator).to(dtype).requires_grad_()
    logits = scale * torch.randn(B, h, w, heads, K * K, K * K, generator=generator)
    return values, logits.to(dtype).requires_grad_(), K, S, P


def forward_and_gradients(aggregate, values, logits, *window) -> list[Tensor]:
    out = aggregate(values, logits, *window)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
    return [out.detach(), *torch.autograd.grad(out, (values, logits), grad)]


def expected(values, logits, *window) -> list[Tensor]:
    exact = [tensor.detach().double().requires_grad_() for tensor in (values, logits)]
    out = reference.aggregate(*exact, *window)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(values.dtype).to(out)
    return [out.detach(), *torch.autograd.grad(out, exact, grad)]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for name, one, other in zip(("out", "dvalues", "dlogits"), found, wanted, strict=True):
        error = (one.double() - other).abs().max() / other.abs().max().clamp(min=1)  # a saturated softmax has zeros
        assert error < tolerance, f"{name} is off by {error:.1e}"
