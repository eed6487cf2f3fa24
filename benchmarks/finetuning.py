"""Fine-tuning photographs against training on them from scratch: accuracy of the test split after equal time.

    python -m benchmarks.finetuning --weights outputs/source --data-dir data/flowers128 --minutes 1 3 --seeds 0 1 2

The weights are those of a run on other images, whose model is trained on, at its own size:

    volo train --recipe photos --data-dir data/cifar10-jpeg --auto-augment none --epochs 15 \
        --resize-schedule 0.5:0.5 0.75:0.8 --num-workers 0 --run-name source

From scratch, the same model is trained by Muon from a whitened stem, at that size and at those of --sizes. All have
smaller images at first, as --stages says. Rates are chosen, results kept and races resumed as in `benchmarks.peers`,
but trials are as long as the race: a tenth of so little time says nothing.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.peers.candidates import MUON_RATES, Candidate, Optimize, variants
from benchmarks.peers.racing import Arena
from benchmarks.peers.results import Results, chosen, race, table
from benchmarks.timing import machine
from volo.allocator import keep_memory
from volo.runs import checkpoint
from volo.runs.rebuild import rebuild
from volo.settings.optim import OptimSettings
from volo.training.optimizer.build import build_optimizer

LAYER_DECAYS = (1.0, 0.8)


def from_weights(num_classes: int, size: int, source: Path) -> nn.Module:
    """The model of a checkpoint, which has been trained at that size, with a new head."""
    model, description = rebuild(source)
    assert description.settings.data.image_size == size
    model.reset_classifier(num_classes)
    return model.float().train().requires_grad_(True)


def tuned(layer_decay: float) -> Optimize:
    return lambda model, lr: build_optimizer(model, OptimSettings(optimizer="muon", lr=lr, layer_decay=layer_decay))


def candidates(source: Path, size: int, sizes: list[int], stages: list[str]) -> Iterator[tuple[str, int, Candidate]]:
    """Name, size of the images, and how it is trained."""
    smaller = tuple(stage_of(each) for each in stages)
    scratch = replace(variants(rebuild(source)[1].settings.model.variant, size)["Muon, whitened"], stages=smaller)
    yield f"from scratch at {size} pixels", size, scratch
    build = partial(from_weights, source=source)
    for decay in LAYER_DECAYS:
        tuning = Candidate(build, tuned(decay), MUON_RATES, stages=smaller)
        yield f"fine-tuned at {size} pixels, layer decay {decay:g}", size, tuning
    for each in sizes:
        yield f"from scratch at {each} pixels", each, scratch


def stage_of(text: str) -> tuple[float, float]:
    share, end = map(float, text.split(":"))
    if not (0 < share < 1 and 0 < end < 1):
        raise SystemExit(f"--stages takes shares of the size and of the time below 1, got {text}; 0.5:0.4, say")
    return share, end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="a run on other images")
    parser.add_argument("--data-dir", required=True, help="an image folder with a test split")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64], help="to train from scratch at as well")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--stages", nargs="*", default=["0.5:0.4", "0.75:0.7"], help="smaller images first, SHARE:UNTIL"
    )
    parser.add_argument("--only", nargs="+", help="names of candidates, or beginnings of them")
    parser.add_argument("--output", type=Path, default=Path("outputs/finetuning"))
    flags = parser.parse_args()
    torch.set_flush_denormal(True)  # for all, as in training
    torch.set_num_threads(2)
    keep_memory()
    source = checkpoint.find(flags.weights)
    size = rebuild(source)[1].settings.data.image_size
    racing = {name: (each, candidate) for name, each, candidate in candidates(source, size, flags.sizes, flags.stages)}
    names = chosen(racing, flags.only)
    arenas = {each: Arena.of(flags.data_dir, each) for each in (size, *flags.sizes)}
    stages = flags.stages or ["full size alone"]
    results = Results(flags.output / f"{Path(flags.data_dir).name}-{flags.weights.name}-{'-'.join(stages)}.jsonl")
    print(f"{machine()}; {len(arenas[size].split.train):,} images to train on, {', '.join(stages)}", flush=True)
    for minutes in flags.minutes:
        for name in names:
            each, candidate = racing[name]
            for seed in flags.seeds:
                race(name, candidate, arenas[each], minutes, seed, results, trial_share=1.0)
    print(*table(results.records, flags.minutes), sep="\n")


if __name__ == "__main__":
    main()
