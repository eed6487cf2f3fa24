"""Outlook attention and the Outlooker block (arXiv 2106.13112, section 3.1).

Shapes: B images, H x W map, C channels, K kernel size, h x w windows (h = ceil(H / stride)). Maps are channel-last.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from volo.model.eager import OutlookLayers, is_eager_float32
from volo.model.layers import Mlp, are_plain, drop_path, drops
from volo.model.outlook_ops import choose, outlook_aggregate, reference, window_centres


class OutlookAttention(nn.Module):
    """Aggregates a K x K window around every position with weights that a linear layer makes from its centre.

    (B, H, W, C) -> (B, H, W, C). Parameters are named as in the published code and timm: `v`, `attn`, `proj`.

    Raises:
        ValueError: num_heads that do not divide dim, an even kernel_size, or a stride beyond it.
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
        if dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim}, num_heads={num_heads}")
        if kernel_size % 2 == 0 or not 1 <= stride <= kernel_size:
            raise ValueError(f"kernel_size must be odd and stride in [1, kernel_size], got {kernel_size=}, {stride=}")
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.padding = kernel_size // 2 if padding is None else padding
        self.stride = stride
        self.op = op
        self.scale = (dim // num_heads) ** -0.5
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.attn = nn.Linear(dim, kernel_size**4 * num_heads)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_drop(self._attended(x))

    def _attended(self, x: Tensor) -> Tensor:
        window = self.kernel_size, self.stride, self.padding
        if self._is_plain(x):
            weight, bias = self._scaled()
            parameters = self.v.weight, self.v.bias, weight, bias, self.proj.weight, self.proj.bias
            return OutlookLayers.apply(x, *parameters, self.num_heads, window)
        taps = self.kernel_size**2
        logits = self._logits(window_centres(x, self.stride)).unflatten(-1, (self.num_heads, taps, taps))
        if drops(self.attn_drop) or not are_plain([self.attn_drop]):  # softmax and aggregation apart, with it between
            return self.proj(reference.mix(self.v(x), self.attn_drop(logits.softmax(dim=-1)), *window))
        return self.proj(outlook_aggregate(self.v(x), logits, *window, op=self.op))

    def _logits(self, centres: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, heads * K**4), scaled."""
        if are_plain([self.attn]):
            return F.linear(centres, *self._scaled())
        return self.attn(centres) * self.scale

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that give scaled logits: they are fewer than the logits."""
        return self.attn.weight * self.scale, self.attn.bias * self.scale

    def _is_plain(self, x: Tensor) -> bool:
        """In float32 by the compiled kernel for CPUs, eager, with nothing dropped on the way."""
        is_plain = is_eager_float32(x, self.v.weight) and are_plain(self.children()) and not drops(self.attn_drop)
        return is_plain and choose(self.op, x, self.stride, self.kernel_size) == "cpu"


class OutlookerBlock(nn.Module):
    """Pre-norm outlook attention, then an MLP, each with a residual and stochastic depth.

    (B, H, W, C) -> (B, H, W, C). Differs from the published code, whose outlookers never receive stochastic depth.
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
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = OutlookAttention(dim, num_heads, kernel_size, stride=stride, proj_drop=drop_rate, op=op)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio, drop_rate)
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
