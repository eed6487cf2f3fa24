"""Global attention over tokens. Shapes: B images, N tokens, C channels, n heads of width d = C / n."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volo.model.cpu_autograd import AttentionFunction, is_eager_cpu
from volo.model.layers import Linear, Mlp, ResidualBlock

# Up to this many tokens, two matrix products and a softmax are faster on a CPU than PyTorch's fused attention, in
# float32 and in bfloat16 (benchmarks/RESULTS.md). For more tokens, and on a GPU, the fused one is used.
PLAIN_MAX_TOKENS, PLAIN_MAX_TOKENS_HALF = 128, 256


class SelfAttention(nn.Module):
    """Multi-head self-attention, (B, N, C) -> (B, N, C). Raises ValueError if num_heads does not divide dim."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = False, proj_drop: float = 0.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim}, num_heads={num_heads}")
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, C // self.num_heads))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, n, N, d) each; one copy joins their gradients
        mixed = attend(q, k, v).transpose(1, 2).reshape(B, N, C)
        return self.proj_drop(self.proj(mixed))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention over (B, n, N, d), by the faster of two equivalent ways."""
    limit = PLAIN_MAX_TOKENS if q.dtype == torch.float32 else PLAIN_MAX_TOKENS_HALF
    if q.device.type == "cpu" and k.shape[-2] <= limit:
        if is_eager_cpu(q):
            return AttentionFunction.apply(q, k, v)
        scale = q.shape[-1] ** -0.5
        return ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class TransformerBlock(ResidualBlock):
    """Pre-norm self-attention, then an MLP, each with a residual and stochastic depth. (B, N, C) -> (B, N, C)."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 3.0, drop_rate: float = 0.0, drop_path_rate: float = 0.0
    ):
        attn = SelfAttention(dim, num_heads, proj_drop=drop_rate)
        super().__init__(dim, attn, mlp_ratio, drop_rate, drop_path_rate)


class ClassAttention(nn.Module):
    """Attention of the class token to itself and the patches: q from the class token only, k and v from all tokens.

    (B, 1, C) and (B, N, C) -> (B, 1, C). Parameters are named as in the published code and timm: `kv`, `q`, `proj`.
    Source: arXiv 2103.17239 (CaiT), equations 6 to 8. Raises ValueError if num_heads does not divide dim.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = False, proj_drop: float = 0.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim}, num_heads={num_heads}")
        self.num_heads = num_heads
        self.kv = Linear(dim, 2 * dim, bias=qkv_bias)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, class_token: Tensor, patches: Tensor) -> Tensor:
        B, N, C = patches.shape
        kv = self.kv(torch.cat([class_token, patches], dim=1))  # (B, 1+N, 2C)
        kv = kv.reshape(B, 1 + N, 2, self.num_heads, C // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, n, 1+N, d) each
        q = self.q(class_token).reshape(B, 1, self.num_heads, C // self.num_heads).transpose(1, 2)  # (B, n, 1, d)
        mixed = attend(q, k, v).transpose(1, 2).reshape(B, 1, C)
        return self.proj_drop(self.proj(mixed))


class ClassBlock(nn.Module):
    """Pre-norm class attention, then an MLP on the class token, each with a residual; patches are unchanged.

    (B, 1, C) and (B, N, C) -> (B, 1, C). Without stochastic depth, as published: the class token has no other input.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 3.0, drop_rate: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ClassAttention(dim, num_heads, proj_drop=drop_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio, drop_rate)

    def forward(self, class_token: Tensor, patches: Tensor) -> Tensor:
        class_token = class_token + self.attn(self.norm1(class_token), self.norm1(patches))
        return class_token + self.mlp(self.norm2(class_token))
