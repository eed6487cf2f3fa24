"""Muon: a momentum step whose matrices are made orthogonal, all of one shape at once."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
RMS = 0.2
EPS = 1e-7


def orthogonalize(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: singular values end between 0.7 and 1.2.

    Newton-Schulz iterations of the fifth order with the coefficients of Jordan et al. 2024
    (https://kellerjordan.github.io/posts/muon/). They run in bfloat16 on a GPU, where that is enough, and in float32 on
    a CPU, where many have no instructions for bfloat16.

    Args:
        matrices: (n, rows, columns).

    Returns:
        (n, rows, columns), of the type of `matrices`.
    """
    is_tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if is_tall else matrices
    if matrices.is_cuda:
        x = x.bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)
    a, b, c = COEFFICIENTS
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay, for matrices and convolution kernels.

    A kernel (out, in, height, width) is taken as the matrix (out, in * height * width). Updates are scaled to the root
    mean square that AdamW's have (Liu et al. 2025, arXiv 2502.16982), so learning rate and weight decay mean the same
    for both. `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` takes the same steps, one matrix after another,
    in bfloat16, and takes no kernels.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"parameters must be matrices or kernels, got shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["weight_decay"], group["momentum"])
        return loss

    def _update(self, parameters: list[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        """One step of parameters of one shape. The momentum is Nesterov's."""
        directions = torch.stack([self._direction(parameter, momentum) for parameter in parameters]).flatten(2)
        scale = lr * RMS * max(directions.shape[1:]) ** 0.5
        for parameter, update in zip(parameters, orthogonalize(directions), strict=True):
            parameter.mul_(1 - lr * weight_decay).sub_(update.view_as(parameter), alpha=scale)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum_buffer"]
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)
