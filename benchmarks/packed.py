"""A folder of many small files, the same with an index, and packed: time to make these, time and memory to open each,
and to train on it.

    python -m benchmarks.packed --files 10000
    python -m benchmarks.packed --files 200000

The files are made in --place, on the disk that is to be measured: links to one small JPEG, in as many folders as there
are classes. Each opening is a process of its own; its memory is what the process holds more than before. So is a
training of a few steps, whose memory is what it holds at its end, beside what it has mapped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import machine
from volo.data.packed import IN_PLACE
from volo.data.packed.indexing import index_in_place
from volo.data.packed.packing import pack

CLASSES, HELD_OUT = 100, 200
OPENING = """
import json, os, resource, sys, time
import numpy, pyarrow, PIL.Image
from volo.data.folders.imagefolder import ImageFolder
from volo.data.packed.in_place import IndexedFolder
from volo.data.packed.source import PackedFolder
def held():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith(("RssAnon", "RssFile")))
    return {name: int(value.split()[0]) / 1024 for name, value in fields.items()}
kind = {"folder": ImageFolder, "folder with an index": IndexedFolder, "packed": PackedFolder}[sys.argv[1]]
before, start = held(), time.perf_counter()
source = kind(sys.argv[2], "train", 64)
digest = "" if sys.argv[1] == "folder" else source.contents().digest
took, after = time.perf_counter() - start, held()
print(json.dumps(dict(s=took, own=after["RssAnon"] - before["RssAnon"], mapped=after["RssFile"] - before["RssFile"],
                      images=len(source.labels))))
"""
TRAINING = """
import sys
from volo.settings.config import build_settings
from volo.training.launch import train_here
model = dict(variant="quickstart", stem_channels=(8, 16), embed_dim=32)
data = dict(dataset="imagefolder", data_dir=sys.argv[1], image_size=32, val_fraction=float(sys.argv[3]))
run = dict(num_workers=0, num_readers=0, output_dir=sys.argv[2], fresh=True)
optim = dict(epochs=1, max_steps=20, batch_size=32)
train_here(build_settings(dict(model=model, data=data, augment=dict(crop_area=(0.5, 1)), optim=optim, run=run)))
fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(int(fields["RssAnon"].split()[0]) / 1024)
"""


def make(root: Path, num_files: int) -> None:
    first = root / "one.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(first, quality=75)
    content = first.read_bytes()
    for number in range(num_files):
        folder = root / "data" / "train" / f"class{number % CLASSES:03}"
        if number < CLASSES:
            folder.mkdir(parents=True)
        (folder / f"{number:07}.jpg").write_bytes(content)


def opened(kind: str, place: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", OPENING, kind, str(place)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def training(data: Path, outputs: Path, num_files: int) -> float:
    """MiB that the process holds at the end; the number of validation images is always the same."""
    argv = [sys.executable, "-c", TRAINING, str(data), str(outputs), str(HELD_OUT / num_files)]
    return float(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--place", type=Path, help="a folder on the disk to measure; default: the temporary folder")
    given = parser.parse_args()
    print(f"{machine()}; {given.files:,} files of {CLASSES} classes, n = {given.rounds}")
    with tempfile.TemporaryDirectory(dir=given.place) as root:
        make(Path(root), given.files)
        os.sync()
        start = time.perf_counter()
        packed = pack(Path(root, "data"), Path(root, "packed"), 256 * 10**6)
        took = time.perf_counter() - start
        print(f"packing: {took:.1f} s, {given.files / took:,.0f} files/s; {packed.in_words()}")
        index = Path(root, "packed", "index.arrow").stat().st_size
        print(f"index: {index / 2**20:.1f} MiB, {index / given.files:.0f} bytes an image")
        start = time.perf_counter()
        index_in_place(Path(root, "data"))
        took = time.perf_counter() - start
        num_bytes = Path(root, "data", IN_PLACE).stat().st_size
        print(f"indexing in place: {took:.1f} s, {given.files / took:,.0f} files/s; {num_bytes / 2**20:.1f} MiB")
        for kind in ("folder", "folder with an index", "packed"):
            place = Path(root, "packed" if kind == "packed" else "data")
            found = [opened(kind, place) for _ in range(given.rounds)]
            times = [one["s"] for one in found]
            own, mapped = (statistics.median(one[name] for one in found) for name in ("own", "mapped"))
            print(
                f"opening the {kind}: {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f}), "
                f"{own:.0f} MiB of its own, {mapped:.0f} MiB of the file mapped"
            )
        Path(root, "data", IN_PLACE).rename(Path(root, IN_PLACE))
        for kind in ("data", "data, indexed", "packed"):
            if kind == "data, indexed":
                Path(root, IN_PLACE).rename(Path(root, "data", IN_PLACE))
            held = [
                training(Path(root, kind.partition(",")[0]), Path(root, "outputs"), given.files) for _ in range(2)
            ]  # the second has a cache
            print(f"training on {kind}: {held[1]:,.0f} MiB at its end")


if __name__ == "__main__":
    main()
