"""The published VOLO, D1 to D5 (arXiv 2106.13112, table 2), with the state dicts of the published code and of timm.

Shapes: images (B, in_chans, H, W); fine map (B, h, w, C0); tokens (B, N, C) of a map of half the height and width,
N = h/2 * w/2; logits (B, classes). All maps are channel-last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volo.model.attention import ClassBlock, TransformerBlock
from volo.model.embedding import grid_size, resize_position_embedding
from volo.model.flat import VOLOStage
from volo.model.layers import Network, class_head, drop_path_rates, init_weights, keep_channel_last, new_head
from volo.model.token_labels import Box, DenseLogits, mix_tokens
from volo.settings.sizes import NUM_CLASS_BLOCKS

STEM_STRIDE = 2
AUX_WEIGHT = 0.5  # weight of the largest patch logits, added to the class token's, at inference


class PublishedStem(nn.Module):
    """Three convolutions with batch norm, then the patch projection: (B, in_chans, H, W) -> (B, h, w, embed_dim).

    Differs from the published code: images whose size patch_size does not divide are padded at the bottom and right,
    and patch_size may be 2.
    """

    def __init__(self, patch_size: int, embed_dim: int, in_chans: int = 3, stem_dim: int = 64):
        super().__init__()
        if patch_size % STEM_STRIDE:
            raise ValueError(f"patch_size must be even, because the stem halves the image, got {patch_size=}")
        self.patch_size = patch_size
        layers, width = [], in_chans
        for kernel, stride in ((7, STEM_STRIDE), (3, 1), (3, 1)):
            layers += [
                nn.Conv2d(width, stem_dim, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(stem_dim),
                nn.ReLU(inplace=True),
            ]
            width = stem_dim
        self.conv = nn.Sequential(*layers)
        rest = patch_size // STEM_STRIDE
        self.proj = nn.Conv2d(stem_dim, embed_dim, kernel_size=rest, stride=rest)

    def forward(self, images: Tensor) -> Tensor:
        x = self.proj(self.conv(_padded(images, self.patch_size)))  # (B, C, h, w)
        return x.permute(0, 2, 3, 1)  # (B, h, w, C)


class PublishedDownsample(nn.Module):
    """A 2x2 stride-2 convolution, (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), out_dim); odd maps are padded."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_padded(x.permute(0, 3, 1, 2), 2)).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Features:
    """Normalized features: `pooled` (B, C), of the class token, and `patches` (B, h/2, w/2, C)."""

    pooled: Tensor
    patches: Tensor


class PublishedVOLO(Network):
    """Stem, outlookers, downsampling, transformer blocks, class attention, LayerNorm, two heads.

    (B, in_chans, H, W) -> (B, num_classes): the class token's logits plus half the largest patch logits, as published;
    or the class token's normalized features (B, embed_dims[-1]) if num_classes is 0, as in timm. `dense` returns both
    kinds of logits, for token labels. Differs from the published code: outlookers have stochastic depth as well (linear
    over all blocks), unless `outlooker_drop_path` is off; images may have any size of at least one patch, for which the
    position embedding is resized.

    Args:
        layers: Number of outlookers, then of transformer blocks in three stages of one width.
        embed_dims, stage_heads: Width and heads of the outlookers, and of all later blocks.
        stem_dim: Width of the stem's convolutions.
        input_size: Height and width that images are resized to first (bicubic); None does not resize. The position
            embedding is made for it, or for `img_size` if it is None.

    Attributes:
        explained_layer: Name of the submodule whose output is the map (B, h, w, C) to explain predictions on.

    Raises:
        ValueError: the heads do not divide the width, patch_size is odd, or images are smaller than a patch.
    """

    explained_layer = "network.0"

    def __init__(
        self,
        num_classes: int,
        img_size: int = 224,
        in_chans: int = 3,
        patch_size: int = 8,
        stem_dim: int = 64,
        layers: Sequence[int] = (4, 4, 8, 2),
        embed_dims: Sequence[int] = (192, 384),
        stage_heads: Sequence[int] = (6, 12),
        mlp_ratio: float = 3.0,
        kernel_size: int = 3,
        outlook_stride: int = 2,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        outlooker_drop_path: bool = True,
        input_size: int | None = None,
        outlook_op: str = "auto",
    ):
        super().__init__()
        size = img_size if input_size is None else input_size
        if size < patch_size:
            raise ValueError(f"images must be at least one patch, got {size}x{size} pixels, {patch_size=}")
        self.num_classes, self.input_size = num_classes, input_size
        (fine, dim), (fine_heads, heads) = embed_dims, stage_heads
        rates = drop_path_rates(drop_path_rate, sum(layers))
        local_rates = rates[: layers[0]] if outlooker_drop_path else layers[0] * [0.0]
        remaining = iter(rates[layers[0] :])

        self.patch_embed = PublishedStem(patch_size, fine, in_chans, stem_dim)
        grid = grid_size(grid_size(size, patch_size), 2)
        self.pos_embed = nn.Parameter(torch.empty(1, grid, grid, dim))
        outlookers = VOLOStage(
            fine, fine_heads, local_rates, kernel_size, outlook_stride, mlp_ratio, drop_rate, outlook_op
        )
        stages = (
            nn.Sequential(*(TransformerBlock(dim, heads, mlp_ratio, drop_rate, next(remaining)) for _ in range(depth)))
            for depth in layers[1:]
        )
        self.network = nn.ModuleList([outlookers, PublishedDownsample(fine, dim), *stages])
        self.stages_of_map = ("network.0", *(f"network.{number}" for number in range(2, 1 + len(layers))))
        self.grids_of_map = ("network.1",)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.post_network = nn.ModuleList(ClassBlock(dim, heads, mlp_ratio, drop_rate) for _ in range(NUM_CLASS_BLOCKS))
        self.norm = nn.LayerNorm(dim)
        self.aux_head = class_head(dim, num_classes)
        self.head = class_head(dim, num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_weights)
        self.apply(keep_channel_last)

    def forward_head(self, features: Features, pre_logits: bool = False) -> Tensor:
        if pre_logits or not self.num_classes:
            return features.pooled
        patch_logits = self.aux_head(features.patches)  # (B, h/2, w/2, classes)
        return self.head(features.pooled) + AUX_WEIGHT * patch_logits.flatten(1, 2).amax(dim=1)

    def reset_classifier(self, num_classes: int) -> None:
        super().reset_classifier(num_classes)
        self.num_classes = num_classes
        self.aux_head = new_head(self.norm, num_classes)

    def dense(self, images: Tensor, box: Box | None = None) -> DenseLogits:
        """The logits of both heads, for token labels; with `box`, for patch embeddings mixed by MixToken.

        The mix is undone for the patch logits, so that only the labels of the pooled logits need mixing.
        """
        features = self.forward_features(images, box)
        patch_logits = self.aux_head(features.patches)  # (B, h/2, w/2, classes)
        if box is not None:
            patch_logits = mix_tokens(patch_logits, box)
        return DenseLogits(self.head(features.pooled), patch_logits)

    def forward_features(self, images: Tensor, box: Box | None = None) -> Features:
        """The normalized features that the heads read."""
        x = self.patch_embed(self._sized(images))  # (B, h, w, C0)
        if box is not None:
            x = mix_tokens(x, box)
        x = self.network[1](self.network[0](x))  # (B, h/2, w/2, C)
        x = x + resize_position_embedding(self.pos_embed, x.shape[1], x.shape[2]).to(x.dtype)
        tokens = x.flatten(1, 2)  # (B, N, C)
        for stage in self.network[2:]:
            tokens = stage(tokens)
        class_token = self.cls_token.to(tokens.dtype).expand(tokens.shape[0], 1, -1)  # (B, 1, C)
        for block in self.post_network:
            class_token = block(class_token, tokens)
        return Features(self.norm(class_token[:, 0]), self.norm(tokens).unflatten(1, x.shape[1:3]))

    def _sized(self, images: Tensor) -> Tensor:
        size = self.input_size
        if size is None or images.shape[-2:] == (size, size):
            return images
        return F.interpolate(images, size=(size, size), mode="bicubic", antialias=max(images.shape[-2:]) > size)


def _padded(x: Tensor, multiple: int) -> Tensor:
    """Pads (B, C, H, W) with zeros at the bottom and right to multiples of `multiple`."""
    below, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, below)) if below or right else x
