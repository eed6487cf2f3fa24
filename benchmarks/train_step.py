"""A whole training step (forward, backward, AdamW): ours against timm's.

    python -m benchmarks.train_step [--batch-size 64] [--compile] [--rounds 9] [--json FILE]
    python -m benchmarks.train_step --model volo_d1 --image-size 224 --batch-size 8 --precisions fp32 --rounds 7

Both have the same geometry, weights, inputs and precision. Without --model they are small-image models of our blocks
and of timm's: a patch embedding, two outlookers, four transformer blocks, the mean, LayerNorm and a head. With it,
they are the published model, and timm's model with our outlook attention put into it is the third. Logits are compared
before anything is timed. Ends with the goals. --compile: all under torch.compile.
"""

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator

import timm
import torch
import torch.nn.functional as F
from timm.models.volo import Outlooker as TimmOutlooker
from timm.models.volo import Transformer as TimmTransformer
from torch import Tensor, nn

import volo
from benchmarks.timing import Bench, alternate, ratio, ratios
from volo.model.flat import VOLO

CLASSES, LOCAL, GLOBAL = 100, 2, 4
# Width, heads, patch size: maps of 8x8 and 16x16, outlookers of stride 1.
GEOMETRIES = ((192, 6, 4), (128, 4, 2))
# Of ours over timm's: each precision (ours, timm's), the least ratio on a CPU, on a GPU.
PAIRS = {"fp32": ("fp32", "fp32", 1.8, 0), "bf16": ("bf16", "bf16", 2.0, 3.0), "mixed": ("bf16", "fp32", 3.5, 0)}
PUBLISHED, PUBLISHED_COMPILED = 1.5, 1.2  # the least ratio of a published model, on any device


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


def small(dim: int, heads: int, patch_size: int) -> dict[str, nn.Module]:
    """Ours and timm's with equal weights, each with its own parameters."""

    def make() -> VOLO:
        torch.manual_seed(0)
        return VOLO(
            CLASSES, patch_size=patch_size, embed_dim=dim, num_heads=heads, local_depth=LOCAL, global_depth=GLOBAL
        )

    theirs = TimmBlocks(make(), dim, heads)
    ours = make()
    theirs.load_state_dict(ours.state_dict())
    return {"ours": ours, "timm": theirs}


def published(name: str, size: int) -> dict[str, nn.Module]:
    """The same for a published model; `swapped` is timm's with our outlook attention."""
    torch.manual_seed(0)
    theirs = timm.create_model(f"{name}_224", img_size=size)
    ours = volo.create_model(name, img_size=size)
    ours.load_state_dict(theirs.state_dict())
    return {"ours": ours, "timm": theirs, "swapped": volo.ops.accelerate(copy.deepcopy(theirs))}


def compared(flags: argparse.Namespace) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """What to call a row, and its models."""
    if flags.model:
        yield f"{flags.model} at {flags.image_size}", published(flags.model, flags.image_size)
        return
    for dim, heads, patch_size in GEOMETRIES:
        side = flags.image_size // patch_size
        yield f"width {dim}, {side}x{side}", small(dim, heads, patch_size)


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
    parser.add_argument("--model", help="a published one, volo_d1 to volo_d5")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=("fp32", "bf16"))
    parser.add_argument("--compile", action="store_true")


def goals(flags: argparse.Namespace, device: torch.device) -> dict[str, tuple[str, str, float]]:
    """Each comparison: its name, the precisions of ours and timm's, and the least ratio; 0 for none."""
    pairs = {name: pair for name, pair in PAIRS.items() if {*pair[:2]} <= {*flags.precisions}}
    if flags.model:
        least = PUBLISHED_COMPILED if flags.compile else PUBLISHED
        return {name: (own, peer, least if own == peer else 0) for name, (own, peer, *_) in pairs.items()}
    return {
        name: (own, peer, on_gpu if device.type == "cuda" else on_cpu)
        for name, (own, peer, on_cpu, on_gpu) in pairs.items()
    }


def main() -> None:
    bench = Bench(__doc__, add_flags=add_flags)
    flags, device = bench.flags, bench.device
    images = torch.randn(flags.batch_size, 3, flags.image_size, flags.image_size, device=device)
    labels = torch.randint(CLASSES, (flags.batch_size,), device=device)
    pairs, reached = goals(flags, device), []
    for label, models in compared(flags):
        check_equal({name: model.to(device) for name, model in models.items()}, images)
        times = alternate(
            {
                f"{name} {precision}": step_of(model, precision, images, labels, flags.compile)
                for precision in flags.precisions
                for name, model in models.items()
            },
            flags.rounds,
        )
        parameters = sum(weight.numel() for weight in models["ours"].parameters()) / 1e6
        print(f"{label}, {parameters:.1f} M parameters, batch {flags.batch_size}")
        for name, seconds in times.items():
            print(f"  {name}: {flags.batch_size / statistics.median(seconds):.1f} images/s")
        for name, (own, peer, goal) in pairs.items():
            for rival in [name for name in models if name != "timm"]:
                base, other = times[f"timm {peer}"], times[f"{rival} {own}"]
                print(f"  {name}, {rival} against timm: {ratios(base, other)}", flush=True)
                if goal and rival == "ours":
                    reached.append((f"{label}, ours {own} against timm {peer}", ratio(base, other), goal))
        bench.keep(model=label, times=times)
    bench.finish(reached)


def check_equal(models: dict[str, nn.Module], images: Tensor) -> None:
    """Raises AssertionError if two models differ in a logit."""
    with torch.inference_mode():
        ours, *others = (model.eval()(images) for model in models.values())
    for other in others:
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-3)
    for model in models.values():
        model.train()


if __name__ == "__main__":
    main()
