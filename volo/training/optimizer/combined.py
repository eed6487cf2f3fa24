"""Several optimizers, each with parameters of its own, as one."""

from collections.abc import Callable
from typing import Any

import torch


class Combined(torch.optim.Optimizer):
    """Steps all of its optimizers. Its groups are theirs, so a learning rate that is set here is set there."""

    def __init__(self, **optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers.values() for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of each optimizer by its name."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict[name])
        self.param_groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
