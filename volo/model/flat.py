"""The flat VOLO: one local stage of Outlookers, then global blocks on a grid of the same size.

Shapes: images (B, in_chans, H, W); map (B, h, w, C), channel-last; tokens (B, N, C), N = h * w; logits (B, classes).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from volo.model.attention import ClassBlock, TransformerBlock
from volo.model.embedding import PatchEmbeddingConv, PositionEmbedding, grid_size
from volo.model.layers import Network, class_head, drop_path_rates, init_weights, keep_channel_last
from volo.model.outlook import OutlookerBlock
from volo.model.token_labels import DenseLogits


class VOLOStage(nn.Sequential):
    """Outlooker blocks on one map, (B, H, W, C) -> (B, H, W, C); one block per drop path rate."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_path_rates: Sequence[float],
        kernel_size: int = 3,
        stride: int = 1,
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
        op: str = "auto",
    ):
        super().__init__(
            *(
                OutlookerBlock(dim, num_heads, kernel_size, stride, mlp_ratio, drop_rate, rate, op)
                for rate in drop_path_rates
            )
        )

    def __getitem__(self, index: int | slice) -> nn.Module:  # type: ignore[override]  # a slice is no VOLOStage
        """As in nn.Sequential. A slice is a plain Sequential, because a stage is built from settings, not blocks."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)


class VOLO(Network):
    """Patch embedding, Outlookers, position embedding, transformer blocks, pooling, LayerNorm, linear head.

    (B, in_chans, H, W) -> (B, num_classes), or normalized features (B, embed_dim) if num_classes is 0. Images may have
    any size of at least one patch; the position embedding is made for `img_size` and resized for other sizes. Source:
    arXiv 2106.13112, sections 3.1 to 3.3. Differs from the paper: one resolution, stochastic depth in the outlookers
    as well, and the choice of pooling.

    Args:
        pooling: mean: average over the tokens. cls: a class token precedes the patches from the first global block on.
            cli: a class token is inserted after the global blocks and processed by `class_depth` blocks of class
            attention (arXiv 2103.17239, section 3), as published.
        class_depth: Number of class-attention blocks, for cli only.

    Attributes:
        explained_layer: Name of the submodule whose output is the map (B, h, w, C) to explain predictions on: the last
            one that the pooling reads in full. The class token of cls and cli reads the last tokens only in part, or
            not at all, so theirs is the map of the outlookers.

    Raises:
        ValueError: num_heads does not divide embed_dim, img_size is smaller than a patch, the pooling is unknown, or no
            block would process the class token.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int = 32,
        in_chans: int = 3,
        patch_size: int = 4,
        stem_channels: Sequence[int] = (),
        stem_depth: int = 1,
        embed_dim: int = 192,
        num_heads: int = 6,
        local_depth: int = 2,
        global_depth: int = 4,
        pooling: str = "mean",
        class_depth: int = 2,
        mlp_ratio: float = 3.0,
        kernel_size: int = 3,
        outlook_stride: int = 1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        outlook_op: str = "auto",
    ):
        super().__init__()
        _check(img_size, patch_size, pooling, global_depth, class_depth)
        rates = drop_path_rates(drop_path_rate, local_depth + global_depth)
        self.pooling = pooling
        self.stages_of_map = ("local_stage", "global_blocks")
        self.explained_layer = "last_map" if pooling == "mean" else "local_stage" if local_depth else "patch_embed"
        self.patch_embed = PatchEmbeddingConv(patch_size, embed_dim, in_chans, stem_channels, stem_depth)
        self.local_stage = VOLOStage(
            embed_dim, num_heads, rates[:local_depth], kernel_size, outlook_stride, mlp_ratio, drop_rate, outlook_op
        )
        self.pos_embed = PositionEmbedding(grid_size(img_size, patch_size), embed_dim)
        self.global_blocks = nn.Sequential(
            *(TransformerBlock(embed_dim, num_heads, mlp_ratio, drop_rate, rate) for rate in rates[local_depth:])
        )
        if pooling == "mean":
            self.last_map = nn.Identity()  # a name for hooks
        else:
            self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
            nn.init.trunc_normal_(self.class_token, std=0.02)
        if pooling == "cli":
            self.class_blocks = nn.ModuleList(
                ClassBlock(embed_dim, num_heads, mlp_ratio, drop_rate) for _ in range(class_depth)
            )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = class_head(embed_dim, num_classes)
        self.apply(init_weights)
        self.apply(keep_channel_last)

    def forward_features(self, images: Tensor) -> Tensor:
        """The pooled, normalized features before the head, (B, C)."""
        pooled, _ = self._pooled_and_patches(images)
        return self.norm(pooled)

    def dense(self, images: Tensor) -> DenseLogits:
        """The logits of each image and of each of its patches, by the same head."""
        pooled, patches = self._pooled_and_patches(images)
        return DenseLogits(self.head(self.norm(pooled)), self.head(self.norm(patches)))

    def _pooled_and_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features, (B, C), and the last map, (B, h, w, C), both before the norm."""
        x = self.local_stage(self.patch_embed(images))  # (B, h, w, C)
        tokens = self.pos_embed(x).flatten(1, 2)  # (B, N, C)
        if self.pooling == "mean":
            tokens = self.last_map(self.global_blocks(tokens).unflatten(1, x.shape[1:3])).flatten(1, 2)
            pooled = tokens.mean(dim=1)
        elif self.pooling == "cls":
            class_token = self.class_token.to(tokens.dtype).expand(tokens.shape[0], 1, -1)  # (B, 1, C)
            tokens = self.global_blocks(torch.cat([class_token, tokens], dim=1))  # (B, 1+N, C)
            pooled, tokens = tokens[:, 0], tokens[:, 1:]
        else:
            tokens = self.global_blocks(tokens)
            class_token = self.class_token.to(tokens.dtype).expand(tokens.shape[0], 1, -1)  # (B, 1, C)
            for block in self.class_blocks:
                class_token = block(class_token, tokens)
            pooled = class_token[:, 0]
        return pooled, tokens.unflatten(1, x.shape[1:3])


def _check(img_size: int, patch_size: int, pooling: str, global_depth: int, class_depth: int) -> None:
    if img_size < patch_size:
        raise ValueError(f"img_size must be at least patch_size, got {img_size=}, {patch_size=}")
    if pooling not in ("mean", "cls", "cli"):
        raise ValueError(f"pooling must be mean, cls or cli, got {pooling!r}")
    if (pooling == "cls" and global_depth < 1) or (pooling == "cli" and class_depth < 1):
        raise ValueError(
            f"a class token needs a block that processes it, got {pooling=}, {global_depth=}, {class_depth=}"
        )
