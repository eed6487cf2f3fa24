"""The networks of the peers, of about half a million parameters. Images of 32 pixels are seen whole; for larger ones
each begins at a coarser grid, as its authors' models for photographs do.

Shapes: images (B, 3, size, size) -> logits (B, num_classes).
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from timm.models.volo import Outlooker, Transformer
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import volo


def timm_volo(num_classes: int, size: int, model: str) -> nn.Module:
    """A flat model of ours with timm's blocks in the places of our own."""
    ours = volo.create_model(model, num_classes=num_classes, img_size=size, **geometry(size))
    dim, heads = ours.norm.normalized_shape[0], ours.local_stage[0].attn.num_heads
    ratio = ours.local_stage[0].mlp.fc1.out_features / dim
    ours.local_stage = nn.Sequential(
        *(Outlooker(dim, 3, 1, 1, heads, mlp_ratio=ratio) for _ in range(len(ours.local_stage)))
    )
    ours.global_blocks = nn.Sequential(
        nn.Unflatten(1, (8, 8)),
        *(Transformer(dim, heads, mlp_ratio=ratio) for _ in range(len(ours.global_blocks))),
        nn.Flatten(1, 2),
    )
    return ours


def geometry(size: int) -> dict[str, Any]:
    """Of our model, for a map of 8 x 8; above 32 pixels a narrow level comes first, or most of the work lies there."""
    return dict(patch_size=size // 8) | (dict(stem_channels=(16, 48, 96)) if size > 32 else {})


def vit(num_classes: int, size: int) -> nn.Module:
    return VisionTransformer(
        size, size // 8, num_classes=num_classes, embed_dim=96, depth=5, num_heads=3, mlp_ratio=3.0,
        class_token=False, global_pool="avg",
    )  # fmt: skip


def resnet(num_classes: int, size: int) -> nn.Module:
    """ResNet-14 in the form that He et al. (arXiv 1512.03385, section 4.2) give it for CIFAR-10, half as wide again."""
    widths = (24, 48, 96)
    stem = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
    if size > 32:
        stem = [nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), *stem[1:], nn.MaxPool2d(3, 2, 1)]
    blocks, width = [], widths[0]
    for after in widths:
        shortcut = nn.Sequential(nn.Conv2d(width, after, 1, 2, bias=False), nn.BatchNorm2d(after))
        first = BasicBlock(width, after) if after == width else BasicBlock(width, after, 2, shortcut)
        blocks += [first, BasicBlock(after, after)]
        width = after
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


class CCT(nn.Module):
    """CCT-2/3x2 (Hassani et al., arXiv 2104.05704): two convolutions, two encoder layers, sequence pooling."""

    def __init__(self, num_classes: int, size: int, dim: int = 128):
        super().__init__()
        kernel, stride = (3, 1) if size <= 32 else (7, 2)
        convolutions = [
            (nn.Conv2d(width, after, kernel, stride, kernel // 2, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            for width, after in ((3, 64), (64, dim))
        ]
        self.tokenizer = nn.Sequential(*(layer for level in convolutions for layer in level), nn.Flatten(2))
        num_tokens = (size // (2 * stride) ** 2) ** 2
        self.pos_embed = nn.Parameter(0.2 * torch.randn(1, num_tokens, dim))
        layer = nn.TransformerEncoderLayer(dim, 2, dim, 0.1, F.gelu, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.pool, self.head = nn.Linear(dim, 1), nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.encoder(self.tokenizer(images).mT + self.pos_embed)  # (B, N, C)
        return self.head((self.pool(x).softmax(dim=1) * x).sum(dim=1))


class Scaled(nn.Module):
    """Logits times a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def airbench(num_classes: int, size: int) -> nn.Module:
    """Jordan's network for CIFAR-10 (arXiv 2404.00498), a third as wide: a convolution of 2 x 2 for whitening (which
    `benchmarks/peers/racing.py` does), then three blocks of two convolutions; identity at the start."""
    widths, first = (24, 88, 88), 24
    stride = 1 if size <= 32 else 2
    layers: list[nn.Module] = [nn.Conv2d(3, first, 2 * stride, stride), nn.GELU()]
    if size > 32:
        layers.append(nn.MaxPool2d(2))
    for after in widths:
        for number, width in enumerate((first, after)):
            convolution = nn.Conv2d(width, after, 3, padding="same", bias=False)
            nn.init.dirac_(convolution.weight[: min(width, after)])
            layers += [convolution, *([] if number else [nn.MaxPool2d(2)]), nn.BatchNorm2d(after), nn.GELU()]
        first = after
    return nn.Sequential(
        *layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(first, num_classes, bias=False), Scaled(1 / 9)
    )
