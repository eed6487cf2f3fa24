"""Outlook attention and the Outlooker block (arXiv 2106.13112, section 3.1).

    B images, H x W map, C channels in n heads of d = C / n, K kernel size, KK = K*K positions in a window
    h x w windows, one per pixel at stride 1; in general h = ceil(H / stride)

    values    (B, h*w, n, KK, d)     unfold(x W_v): the values in each window
    weights   (B, h*w, n, KK, KK)    softmax(x_center W_a / sqrt(d)), from the center of each window alone
    mixed     (B, h*w, n, KK, d)     weights @ values
    output    (B, H, W, C)           fold(mixed) W_o: overlapping windows are summed per pixel

Unlike self-attention, no query is compared with a key: one linear layer predicts the weights of a whole window.
"""

import numbers

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volo.errors import is_whole
from volo.model.cpu_autograd import OutlookAttentionFunction, is_eager_float32
from volo.model.layers import ResidualBlock, are_plain, drops
from volo.model.outlook_ops import choose, default_padding, outlook_aggregate, window_centers
from volo.model.outlook_ops.reference import fold, unfold


class OutlookAttention(nn.Module):
    """Outlook attention: mixes the K x K window around every pixel with weights made from its center alone.

    Maps (B, H, W, C), with H and W at least 1, to (B, H, W, C), on any device, in float32, bfloat16, float16, or
    float64, also under autocast.
    Parameters are named as in the published code and timm: `v`, `attn`, `proj`.

    Args:
        dim: Channels C, at least 1.
        num_heads: Attention heads; they divide dim.
        kernel_size: K, odd.
        padding: Pixels of zeros around the map. Default: K // 2, the only padding that gives one window per pixel.
        stride: Pixels between windows, in [1, K]. The map is mean-pooled to the windows' centers.
        qkv_bias: Whether `v` has a bias.
        attn_drop: Dropout of the weights, in [0, 1].
        proj_drop: Dropout of the output, in [0, 1].
        op: The formulation; see `volo.ops.outlook_aggregate`.

    Raises:
        ValueError: an argument of another type, num_heads does not divide dim, kernel_size is even, or another number
            is out of range; in forward, an input of another shape or type, and as `volo.ops.outlook_aggregate`.

    Example:
        >>> import torch, volo
        >>> attention = volo.OutlookAttention(dim=64, num_heads=4, kernel_size=3)
        >>> attention(torch.randn(2, 14, 14, 64)).shape
        torch.Size([2, 14, 14, 64])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int = 3,
        padding: int | None = None,
        stride: int = 1,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        op: str = "auto",
    ):
        super().__init__()
        if not (is_whole(dim) and is_whole(num_heads) and dim >= 1 and num_heads >= 1):
            raise ValueError(
                f"dim and num_heads must be whole numbers of at least 1, got {dim=}, {num_heads=}; use num_heads=1 for "
                "one head"
            )
        if dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got {dim=}, {num_heads=}; use another num_heads")
        if not all(isinstance(rate, numbers.Real) and 0 <= rate <= 1 for rate in (attn_drop, proj_drop)):
            raise ValueError(
                f"attn_drop and proj_drop must be in [0, 1], got {attn_drop=}, {proj_drop=}; use 0.0 for no dropout"
            )
        self.dim = dim
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.padding = default_padding(kernel_size, stride, padding)
        self.stride = stride
        self.op = op
        self.scale = (dim // num_heads) ** -0.5
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.attn = nn.Linear(dim, kernel_size**4 * num_heads)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        if self._runs_on_cpu_function(x):
            return self.proj_drop(self._by_cpu_function(x))
        _, H, W, _ = x.shape
        window = self.kernel_size, self.stride, self.padding
        logits = self._logits(window_centers(x, self.stride))  # (B, h, w, n, KK, KK)
        values = self.v(x)  # (B, H, W, C)
        if not self._drops_weights():
            return self.proj_drop(self.proj(outlook_aggregate(values, logits, *window, op=self.op)))

        windows = unfold(values, self.num_heads, *window)  # (B, h*w, n, KK, d)
        weights = self.attn_drop(logits.softmax(dim=-1))  # (B, h, w, n, KK, KK)
        mixed = torch.matmul(weights.flatten(1, 2).to(windows.dtype), windows)  # (B, h*w, n, KK, d)
        return self.proj_drop(self.proj(fold(mixed, (H, W), *window)))  # (B, H, W, C)

    def _check(self, x: Tensor) -> None:
        is_map = isinstance(x, Tensor) and x.ndim == 4 and x.shape[-1] == self.dim and x.is_floating_point()
        if not is_map or x.shape[1] < 1 or x.shape[2] < 1:
            found = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"the input must be a floating-point tensor (B, H, W, C) with H and W at least 1 and C={self.dim}, got "
                f"{found}; permute (B, C, H, W) maps with x.permute(0, 2, 3, 1)"
            )

    def _logits(self, centers: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, n, KK, KK), scaled by 1 / sqrt(d)."""
        scaled = F.linear(centers, *self._scaled()) if are_plain([self.attn]) else self.attn(centers) * self.scale
        return scaled.unflatten(-1, (self.num_heads, self.kernel_size**2, self.kernel_size**2))

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of `attn`, scaled: cheaper than scaling the logits, which are more numbers."""
        return self.attn.weight * self.scale, self.attn.bias * self.scale

    def _drops_weights(self) -> bool:
        """Whether something must be applied between softmax and aggregation, which the fused formulations join."""
        return drops(self.attn_drop) or not are_plain([self.attn_drop])

    def _runs_on_cpu_function(self, x: Tensor) -> bool:
        """Whether the layer can be computed as a whole by OutlookAttentionFunction: float32 on a CPU, eager, plain."""
        is_plain = is_eager_float32(x, self.v.weight) and are_plain(self.children()) and not drops(self.attn_drop)
        return is_plain and choose(self.op, x, self.stride, self.kernel_size) == "cpu"

    def _by_cpu_function(self, x: Tensor) -> Tensor:
        """The same, with a hand-written backward pass."""
        weight, bias = self._scaled()
        parameters = self.v.weight, self.v.bias, weight, bias, self.proj.weight, self.proj.bias
        window = self.kernel_size, self.stride, self.padding
        return OutlookAttentionFunction.apply(x, *parameters, self.num_heads, window)


class OutlookerBlock(ResidualBlock):
    """Pre-norm outlook attention, then an MLP, each with a residual and stochastic depth.

    (B, H, W, C) -> (B, H, W, C). Differs from the published code, whose outlookers never use stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int = 3,
        stride: int = 1,
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        op: str = "auto",
    ):
        attn = OutlookAttention(dim, num_heads, kernel_size, stride=stride, proj_drop=drop_rate, op=op)
        super().__init__(dim, attn, mlp_ratio, drop_rate, drop_path_rate)
