"""A whole training step of a small-image model (forward, backward, AdamW): ours against timm's blocks.

    python -m benchmarks.train_step [--batch-size 64] [--compile] [--rounds 9] [--json FILE]

Both have the same geometry, parameters, inputs and precision: a patch embedding, two outlookers, four transformer
blocks, the mean, LayerNorm and a head. Logits are compared before anything is timed. Ends with the ratios of goal 3.
--compile: both under torch.compile.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.models.volo import Outlooker as TimmOutlooker
from timm.models.volo import Transformer as TimmTransformer
from torch import Tensor, nn

from benchmarks.timing import Bench, alternate, ratio, ratios
from volo.model.flat import VOLO

BATCH, IMAGE, CLASSES, LOCAL, GLOBAL = 64, 32, 100, 2, 4
# Width, heads, patch size: maps of 8x8 and 16x16, outlookers of stride 1.
GEOMETRIES = ((192, 6, 4), (128, 4, 2))
# Of ours over timm's: each precision (ours, timm's), the least ratio on a CPU, on a GPU.
PAIRS = {"fp32": ("fp32", "fp32", 1.8, 0), "bf16": ("bf16", "bf16", 2.0, 3.0), "mixed": ("bf16", "fp32", 3.5, 0)}


class TimmBlocks(nn.Module):
    """timm's blocks in our flat model's places."""

    def __init__(self, ours: VOLO, dim: int, heads: int):
        super().__init__()
        self.patch_embed, self.pos_embed = ours.patch_embed, ours.pos_embed
        self.local_stage = nn.Sequential(*(TimmOutlooker(dim, 3, 1, 1, heads) for _ in range(LOCAL)))
        self.global_blocks = nn.Sequential(*(TimmTransformer(dim, heads, mlp_ratio=3.0) for _ in range(GLOBAL)))
        self.norm, self.head = ours.norm, ours.head

    def forward(self, images: Tensor) -> Tensor:
        x = self.pos_embed(self.local_stage(self.patch_embed(images)))  # (B, h, w, C)
        return self.head(self.norm(self.global_blocks(x).mean(dim=(1, 2))))


def models(dim: int, heads: int, patch_size: int, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and timm's with equal weights, each with its own parameters."""

    def make() -> VOLO:
        torch.manual_seed(0)
        size = dict(patch_size=patch_size, embed_dim=dim, num_heads=heads, local_depth=LOCAL, global_depth=GLOBAL)
        return VOLO(CLASSES, IMAGE, **size)

    theirs = TimmBlocks(make(), dim, heads)
    ours = make()
    theirs.load_state_dict(ours.state_dict())
    return ours.to(device), theirs.to(device)


def step_of(
    model: nn.Module, precision: str, images: Tensor, labels: Tensor, compile: bool = False
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    is_mixed = precision == "bf16"
    forward = torch.compile(model) if compile else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_mixed):
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--compile", action="store_true")


def main() -> None:
    bench = Bench(__doc__, add_flags=add_flags)
    device, batch_size = bench.device, bench.flags.batch_size
    images = torch.randn(batch_size, 3, IMAGE, IMAGE, device=device)
    labels = torch.randint(CLASSES, (batch_size,), device=device)
    reached = []
    print("| model | ours fp32 | ours bf16 | timm fp32 | timm bf16 | " + " | ".join(PAIRS) + " |\n" + "|---" * 8 + "|")
    for dim, heads, patch_size in GEOMETRIES:
        ours, theirs = models(dim, heads, patch_size, device)
        with torch.inference_mode():
            assert torch.allclose(ours(images), theirs(images), atol=1e-3), "ours and timm's logits differ"
        calls = {
            f"{name} {precision}": step_of(model, precision, images, labels, bench.flags.compile)
            for precision in ("fp32", "bf16")
            for name, model in (("ours", ours), ("timm", theirs))
        }
        times = alternate(calls, bench.flags.rounds)
        rates = {name: f"{batch_size / min(seconds):.0f}/s" for name, seconds in times.items()}
        side = IMAGE // patch_size
        label = f"width {dim}, {side}x{side}, {sum(p.numel() for p in ours.parameters()) / 1e6:.1f} M"
        cells = []
        for own, peer, on_cpu, on_gpu in PAIRS.values():
            base, other = times[f"timm {peer}"], times[f"ours {own}"]
            cells.append(ratios(base, other))
            if goal := on_gpu if device.type == "cuda" else on_cpu:
                reached.append((f"{label}, ours {own} against timm {peer}", ratio(base, other), goal))
        order = ("ours fp32", "ours bf16", "timm fp32", "timm bf16")
        print("|", label, "|", " | ".join(rates[name] for name in order), "|", " | ".join(cells), "|", flush=True)
        bench.keep(geometry=(dim, heads, patch_size), times=times)
    bench.finish(reached)


if __name__ == "__main__":
    main()
