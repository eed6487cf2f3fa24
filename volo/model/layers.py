"""Small layers that every block uses, and their initialization."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from volo.model.cpu_autograd import LinearFunction, MlpFunction, is_eager_cpu, is_eager_float32
from volo.model.torch_internals import may_have_global_hooks, may_have_hooks


class Linear(nn.Linear):
    """nn.Linear, computed by oneDNN if that is faster: in float32 on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if is_eager_float32(x, self.weight):
            return LinearFunction.apply(x, self.weight, self.bias)
        return super().forward(x)


class Mlp(nn.Module):
    """Linear, GELU, linear over the last axis; dropout after each. Shapes: (..., dim) -> (..., dim)."""

    def __init__(self, dim: int, mlp_ratio: float, drop_rate: float = 0.0):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        if self._is_plain(x):
            return MlpFunction.apply(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))

    def _is_plain(self, x: Tensor) -> bool:
        """Whether MlpFunction can compute the layers as a whole: eager on a CPU, without dropout between them."""
        return is_eager_cpu(x) and are_plain(self.children()) and not drops(self.drop)


PLAIN_LAYERS = {Linear, nn.Linear, nn.GELU, nn.Dropout}


def are_plain(layers: Iterable[nn.Module]) -> bool:
    """Whether calling these layers would do nothing except compute what they were built for.

    Code that computes several layers as a whole does not call them, so it must check first: a layer may have hooks, or
    may have been replaced (pruned, parametrized, adapted, with another activation).
    """
    if may_have_global_hooks():
        return False
    return all(
        type(layer) in PLAIN_LAYERS and not may_have_hooks(layer) and not _is_approximate(layer) for layer in layers
    )


def _is_approximate(layer: nn.Module) -> bool:
    return isinstance(layer, nn.GELU) and layer.approximate != "none"


def drops(dropout: nn.Dropout) -> bool:
    """Whether the layer drops anything now. Its own mode counts: dropout alone may be on, as in Monte Carlo dropout."""
    return dropout.training and dropout.p > 0


def class_head(dim: int, num_classes: int) -> nn.Module:
    """A linear layer from features to logits; the identity for 0 classes, as in timm. Raises ValueError below 0."""
    if num_classes < 0:
        raise ValueError(f"num_classes must be at least 0 (features instead of logits), got {num_classes=}")
    return nn.Linear(dim, num_classes) if num_classes else nn.Identity()


class StochasticDepth(nn.Module):
    """Drops whole samples (B, ...) with probability `p` while training, and divides the others by the probability to
    stay: a residual branch is left out. As torchvision's, whose import takes seconds. Source: arXiv 1603.09382."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        stays = 1 - self.p
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(stays)  # (B, 1, ...)
        return x * (kept.div_(stays) if stays else kept)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth per sample (arXiv 1603.09382), scaled so that the expectation is unchanged."""
    return StochasticDepth(rate) if rate > 0 else nn.Identity()


class ResidualBlock(nn.Module):
    """Pre-norm attention, then an MLP, each with a residual and stochastic depth; shapes are the attention's.

    Attributes:
        recomputes: While training, keep the input alone and compute the rest again in the backward pass (gradient
            checkpointing, arXiv 1604.06174): the same gradients in less memory.
    """

    recomputes = False

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_rate: float, drop_path_rate: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio, drop_rate)
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        if self.recomputes and self.training and torch.is_grad_enabled():
            return checkpoint(self._computed, x, use_reentrant=False)
        return self._computed(x)

    def _computed(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Network(nn.Module):
    """What all three forms of the model can do, by the names that timm gives it. A form has `norm`, whose output `head`
    reads, and `forward_features`; these are pooled already, where timm's are not.

    Attributes:
        stages_of_map: Names of the submodules whose outputs are the maps of the stages, (B, h, w, C), or tokens
            (B, N, C) of a map; in the order in which they are called.
        grids_of_map: Names of further ones whose outputs only say how many tokens a map of the next stages has.
    """

    norm: nn.LayerNorm
    head: nn.Module
    forward_features: Callable[..., Any]
    stages_of_map: tuple[str, ...]
    grids_of_map: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_head(self, features: Any, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gives -> logits (B, num_classes), or the features (B, num_features) that the head
        reads."""
        return features if pre_logits else self.head(features)

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        intermediates_only: bool = False,
    ) -> Any:
        """The maps after the stages, without class tokens.

        Args:
            images: (B, in_chans, H, W).
            indices: The last so many stages, or which ones; None: all.
            norm: Apply the last norm to maps of its width.
            intermediates_only: Leave out the features.

        Returns:
            What `forward_features` gives, and a list of maps (B, C, h, w).

        Raises:
            ValueError: a stage that the model does not have.
        """
        wanted = _chosen(indices, len(self.stages_of_map))
        maps: dict[str, Tensor] = {}

        def keep(name: str, output: Tensor) -> None:
            if output.ndim == 3:
                h, w = next(reversed(maps.values())).shape[1:3]
                output = output[:, -h * w :].unflatten(1, (h, w))
            maps[name] = output

        handles = [
            self.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            for name in (*self.stages_of_map, *self.grids_of_map)
        ]
        try:
            features = self.forward_features(images)
        finally:
            for handle in handles:
                handle.remove()
        found = [maps[self.stages_of_map[index]] for index in wanted]
        if norm:
            found = [self.norm(x) if x.shape[-1] == self.num_features else x for x in found]
        found = [x.permute(0, 3, 1, 2) for x in found]
        return found if intermediates_only else (features, found)

    @property
    def num_features(self) -> int:
        """Width of the features that the head reads."""
        return self.norm.normalized_shape[0]

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new, initialized head for so many classes; with 0 the model returns features."""
        self.head = new_head(self.norm, num_classes)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that training does not decay: biases, norms, and embeddings."""
        return {name for name, _ in self.named_parameters()} - decayed_weights(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether outlookers and transformer blocks keep their inputs alone while training."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.recomputes = enable


def _chosen(indices: int | Sequence[int] | None, total: int) -> list[int]:
    if indices is None or isinstance(indices, int):
        last = total if indices is None else indices
        wanted = list(range(total - last, total))
    else:
        wanted = [index + total if index < 0 else index for index in indices]
    if not wanted or not all(0 <= index < total for index in wanted):
        raise ValueError(f"indices must name some of the model's {total} stages, got {indices}; leave it out for all")
    return wanted


DECAYED = (nn.Linear, nn.Conv2d)


def decayed_weights(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay is meant for: matrices and kernels."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, DECAYED)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in weights}


def new_head(norm: nn.LayerNorm, num_classes: int) -> nn.Module:
    """On the device and of the type of the norm that it follows."""
    head = class_head(norm.normalized_shape[0], num_classes).to(norm.weight)
    head.apply(init_weights)
    return head


def drop_path_rates(last: float, num_blocks: int) -> list[float]:
    """One rate per block, linear from 0 to `last`."""
    return [last * number / max(1, num_blocks - 1) for number in range(num_blocks)]


def init_weights(module: nn.Module) -> None:
    """Initializes linear layers as in the published code: truncated normal of std 0.02, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def keep_channel_last(module: nn.Module) -> None:
    """Stores a convolution's weight in channels-last layout, so that channel-last maps need no copy; same values."""
    if isinstance(module, nn.Conv2d):
        weight = module.weight.data
        module.weight.data = torch.empty_like(weight, memory_format=torch.channels_last).copy_(weight)
