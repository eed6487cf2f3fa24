"""The hierarchical VOLO: local and global stages on maps that halve from one stage to the next.

Shapes: images (B, in_chans, H, W); maps (B, h, w, C), channel-last, with h, w and C of the stage; logits (B, classes).
"""

from collections.abc import Sequence
from itertools import islice

import torch.nn.functional as F
from torch import Tensor, nn

from volo.model.attention import TransformerBlock
from volo.model.embedding import PatchEmbeddingConv, PositionEmbedding, grid_size
from volo.model.flat import VOLOStage
from volo.model.layers import Linear, Network, class_head, drop_path_rates, init_weights, keep_channel_last
from volo.model.token_labels import DenseLogits


class MapDownsample(nn.Module):
    """A 3x3 stride-2 convolution on the map, (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), out_dim).

    Differs from the published code, whose 2x2 windows do not overlap.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class TokenDownsample(nn.Module):
    """Concatenates, normalizes, and projects 2x2 neighbors: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), out_dim).

    Odd maps are padded with zeros at the bottom and right. Source: patch merging, arXiv 2103.14030 (Swin), section 3.1.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.proj = Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        if H % 2 or W % 2:
            x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, h, 2, w, 2, C)
        return self.proj(self.norm(x.transpose(2, 3).flatten(3)))


DOWNSAMPLE_KINDS = {"map": MapDownsample, "token": TokenDownsample}


class GlobalStage(nn.Module):
    """Position embedding for a map of `grid` x `grid`, and transformer blocks: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_path_rates: Sequence[float],
        grid: int,
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.pos_embed = PositionEmbedding(grid, dim)
        self.blocks = nn.Sequential(
            *(TransformerBlock(dim, num_heads, mlp_ratio, drop_rate, rate) for rate in drop_path_rates)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.pos_embed(x).flatten(1, 2))  # (B, H*W, C)
        return tokens.unflatten(1, x.shape[1:3])  # (B, H, W, C)


class VOLOPyramid(Network):
    """Patch embedding, stages with downsampling between them, mean pooling, LayerNorm, linear head.

    (B, in_chans, H, W) -> (B, num_classes), or normalized features (B, C) of the last stage if num_classes is 0. Images
    may have any size of at least one patch, because maps are never smaller than 1x1; position embeddings are made for
    `img_size` and resized for other sizes. Source: arXiv 2106.13112, table 2, for outlookers on a fine map and
    transformers on a coarse one. Differs from the paper: any number and order of stages, mean pooling, stochastic depth
    (linear over all blocks) in the outlookers as well.

    Args:
        stage_kinds: local (Outlookers) or global (transformer blocks), one per stage.
        stage_depths, stage_embed_dims, stage_num_heads: Number of blocks, width, and attention heads of each stage.
        downsample_kind: map (strided convolution) or token (merging of 2x2 neighbors).

    Attributes:
        explained_layer: Name of the submodule whose output is the map (B, h, w, C) to explain predictions on: the
            last local stage, or the patch embedding if there is none.

    Raises:
        ValueError: the stage arguments differ in length, a kind is unknown, num_heads does not divide the width, or
            img_size is smaller than a patch.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int = 32,
        in_chans: int = 3,
        patch_size: int = 2,
        stem_channels: Sequence[int] = (),
        stem_depth: int = 1,
        stage_kinds: Sequence[str] = ("local", "global"),
        stage_depths: Sequence[int] = (2, 4),
        stage_embed_dims: Sequence[int] = (96, 192),
        stage_num_heads: Sequence[int] = (3, 6),
        downsample_kind: str = "map",
        mlp_ratio: float = 3.0,
        kernel_size: int = 3,
        outlook_stride: int = 1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        outlook_op: str = "auto",
    ):
        super().__init__()
        _check(img_size, patch_size, stage_kinds, (stage_depths, stage_embed_dims, stage_num_heads), downsample_kind)
        rates = iter(drop_path_rates(drop_path_rate, sum(stage_depths)))
        grid = grid_size(img_size, patch_size)
        self.patch_embed = PatchEmbeddingConv(patch_size, stage_embed_dims[0], in_chans, stem_channels, stem_depth)
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        self.explained_layer = "patch_embed"
        for number, (kind, dim, heads) in enumerate(zip(stage_kinds, stage_embed_dims, stage_num_heads, strict=True)):
            if number:
                self.downsamples.append(DOWNSAMPLE_KINDS[downsample_kind](stage_embed_dims[number - 1], dim))
                grid = grid_size(grid, 2)
            stage_rates = list(islice(rates, stage_depths[number]))
            stage: VOLOStage | GlobalStage
            if kind == "local":
                stage = VOLOStage(
                    dim, heads, stage_rates, kernel_size, outlook_stride, mlp_ratio, drop_rate, outlook_op
                )
                self.explained_layer = f"stages.{number}"
            else:
                stage = GlobalStage(dim, heads, stage_rates, grid, mlp_ratio, drop_rate)
            self.stages.append(stage)
        self.stages_of_map = tuple(f"stages.{number}" for number in range(len(stage_kinds)))
        self.norm = nn.LayerNorm(stage_embed_dims[-1])
        self.head = class_head(stage_embed_dims[-1], num_classes)
        self.apply(init_weights)
        self.apply(keep_channel_last)

    def forward_features(self, images: Tensor) -> Tensor:
        """The pooled, normalized features before the head, (B, C) with C of the last stage."""
        return self.norm(self._last_map(images).mean(dim=(1, 2)))

    def dense(self, images: Tensor) -> DenseLogits:
        """The logits of each image, and of each position of the last map, by the same head."""
        x = self._last_map(images)
        return DenseLogits(self.head(self.norm(x.mean(dim=(1, 2)))), self.head(self.norm(x)))

    def _last_map(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)  # (B, h, w, C)
        for number, stage in enumerate(self.stages):
            x = stage(self.downsamples[number - 1](x) if number else x)  # (B, h, w, C) of the stage
        return x


def _check(
    img_size: int, patch_size: int, kinds: Sequence[str], others: Sequence[Sequence[int]], downsample_kind: str
) -> None:
    if img_size < patch_size:
        raise ValueError(f"img_size must be at least patch_size, got {img_size=}, {patch_size=}")
    if not kinds or any(len(values) != len(kinds) for values in others):
        depths, dims, heads = others
        raise ValueError(
            "every stage needs a kind, a depth, a width, and heads, got "
            f"stage_kinds={tuple(kinds)}, stage_depths={tuple(depths)}, stage_embed_dims={tuple(dims)}, "
            f"stage_num_heads={tuple(heads)}"
        )
    if unknown := set(kinds) - {"local", "global"}:
        raise ValueError(f"stage_kinds must be local or global, got {', '.join(sorted(unknown))}")
    if downsample_kind not in DOWNSAMPLE_KINDS:
        raise ValueError(f"downsample_kind must be {' or '.join(DOWNSAMPLE_KINDS)}, got {downsample_kind!r}")
