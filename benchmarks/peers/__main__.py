"""Accuracy for the time it takes: our model and its peers, on the same files, cores and clock.

    python -m benchmarks.peers --data-dir data/cifar10-jpeg --image-size 32 --minutes 5 20
    python -m benchmarks.peers --data-dir data/flowers128 --image-size 128 --minutes 5 20

Each candidate chooses its learning rate on the validation images, in trials of a tenth of the time, which do not count;
then it trains once for each seed and is tested once. The network tested is the moving average of the weights. Every
result is kept in --output, and what is there already is not done again: a race may be stopped and goes on. Who changes
a candidate gives another --output, or its old results stand. A minute is worth more on a faster machine, so a race has
to be run to its end on one, and nothing else beside it.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.peers.candidates import candidates, variants
from benchmarks.peers.racing import Arena
from benchmarks.peers.results import Results, chosen, race, table
from benchmarks.timing import machine
from volo.allocator import keep_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="an image folder with a test split")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", default="nano", help="our size, whose geometry timm's blocks have")
    parser.add_argument("--variants", action="store_true", help="ours alone, one part of its recipe after the other")
    parser.add_argument("--only", nargs="+", help="names of candidates, or beginnings of several")
    parser.add_argument("--output", type=Path, default=Path("outputs/peers"))
    flags = parser.parse_args()
    racing = (variants if flags.variants else candidates)(flags.model, flags.image_size)
    names = chosen(racing, flags.only)
    torch.set_flush_denormal(True)  # for all, as in training
    torch.set_num_threads(2)
    keep_memory()
    arena = Arena.of(flags.data_dir, flags.image_size)
    kind = "-variants" if flags.variants else ""
    results = Results(flags.output / f"{Path(flags.data_dir).name}-{flags.model}{kind}.jsonl")
    print(
        f"{machine()}; {len(arena.split.train):,} images to train on, {len(arena.tests.labels):,} to test", flush=True
    )
    for minutes in flags.minutes:
        for name in names:
            for seed in flags.seeds:
                race(name, racing[name], arena, minutes, seed, results)
    print(*table(results.records, flags.minutes), sep="\n")


if __name__ == "__main__":
    main()
