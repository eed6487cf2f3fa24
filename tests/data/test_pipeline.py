"""Batches: the same for any number of workers, also from a cache larger than memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from volo.data.decoded.cache import Images, cached
from volo.data.decoded.store import KEY
from volo.data.pipeline import Pixels, TrainingBatches, evaluation_batches, resident
from volo.settings.augment import AugmentSettings, ResolvedAugment

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
EVERYTHING = AugmentSettings(
    crop_padding=4, auto_augment="trivial", random_erasing=0.5, mixup_alpha=0.8, cutmix_alpha=1.0, mix_prob=0.8
).resolved(32)
PLAIN = AugmentSettings(crop_padding=4, mix_prob=None).resolved(32)


def noise(count: int, size: int = 32) -> Images:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Images(images, rng.integers(0, 5, count), tuple("abcde"))


def batches(
    data: Images, augment: ResolvedAugment, rank: int = 0, world_size: int = 1, batch_size: int = 40
) -> TrainingBatches:
    pixels = Pixels(data, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2), CPU)
    index = np.arange(len(data))
    return TrainingBatches(
        data, index, pixels, augment, batch_size=batch_size, seed=3, epochs=5, rank=rank, world_size=world_size
    )


@pytest.mark.parametrize("augment", [EVERYTHING, PLAIN], ids=["everything", "plain"])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_workers_parts_together_are_the_batch_of_one(augment, world_size):
    data = noise(100)
    whole = batches(data, augment).batch(epoch=1, step=1)
    parts = [batches(data, augment, rank, world_size).batch(epoch=1, step=1) for rank in range(world_size)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_a_resize_schedule_shrinks_the_same_images_until_its_fractions_of_the_training():
    """Two steps of each of five epochs."""
    data = noise(80)
    scheduled = batches(data, EVERYTHING.model_copy(update=dict(resize_schedule=("16:0.3", "24:0.61"))))
    whole = batches(data, EVERYTHING)
    steps = [(epoch, step) for epoch in range(5) for step in range(2)]
    sizes = [scheduled.batch(*place).images.shape[-1] for place in steps]
    assert sizes == 3 * [16] + 4 * [24] + 3 * [32]
    for place, size in zip(steps, sizes, strict=True):
        found, full = scheduled.batch(*place), whole.batch(*place)
        assert torch.equal(found.targets, full.targets)
        expected = F.interpolate(full.images, size=(size, size), mode="bilinear", antialias=True)
        assert torch.equal(found.images, full.images if size == 32 else expected)
        assert found.images.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_does_not_depend_on_earlier_batches():
    data = noise(100)
    one, other = batches(data, EVERYTHING), batches(data, EVERYTHING)
    expected = one.batch(epoch=2, step=1)
    for epoch, step in ((0, 0), (2, 0), (1, 1)):
        other.batch(epoch, step)
    assert torch.equal(other.batch(epoch=2, step=1).images, expected.images)
    assert not torch.equal(other.batch(epoch=3, step=1).images, expected.images)


@pytest.mark.parametrize("name", ["auto_augment", "random_erasing"])
def test_augmentations_reach_the_batch_and_leave_the_stored_images(name):
    data = noise(100)
    before = data.images.copy()
    off = EVERYTHING.model_copy(update={name: AugmentSettings.model_fields[name].default})
    with_it, without = (batches(data, augment).batch(0, 0) for augment in (EVERYTHING, off))
    assert not torch.equal(with_it.images, without.images)
    assert torch.equal(with_it.targets, without.targets)
    assert np.array_equal(data.images, before)


def test_images_of_a_batch_are_channels_last_in_memory():
    for augment in (EVERYTHING, PLAIN):
        assert batches(noise(50), augment).batch(0, 0).images.is_contiguous(memory_format=torch.channels_last)


def test_images_decoded_partly_and_in_any_order_keep_their_numbers():
    """Gathered from the map, or from a copy on a device that holds no others."""
    whole, rng = noise(1300, size=8), np.random.default_rng(1)
    used = np.sort(rng.choice(1300, 1100, replace=False))
    order, rows = rng.permutation(used), np.full(1300, -1)
    rows[order] = np.arange(1100)
    part = Images(whole.images[order], whole.labels, whole.class_names, rows=rows)
    numbers = rng.permutation(used)[:100]
    assert np.array_equal(part.pixels(numbers), whole.images[numbers])
    shown, expected = (Pixels(data, (0.5,) * 3, (0.5,) * 3, CPU).plain(numbers) for data in (part, whole))
    assert torch.equal(shown, expected)
    copy, places = resident(part, CPU)
    assert len(copy) == 1100
    assert np.array_equal(copy[places[numbers]].numpy(), whole.images[numbers])
    assert {*np.flatnonzero(places < 0)} == {*range(1300)} - {*used}


class Noise:
    """48 MiB of noise at 64 pixels a side, drawn by position; a `Source`."""

    name, image_size, in_chans, class_names, coarse = "noise", 64, 3, tuple("abcde"), None
    labels = np.arange(4096) % 5

    def fingerprint(self) -> str:
        return "noise"

    def keys(self) -> np.ndarray:
        return np.arange(4096).astype(KEY)

    def decode(self, numbers: np.ndarray) -> Iterator[np.ndarray | str]:
        shape, rng = (self.image_size, self.image_size, 3), np.random.default_rng(0)
        for _ in numbers:
            yield rng.integers(0, 256, shape, dtype=np.uint8)


def epoch_sums(data: Images) -> list[float]:
    """A number for each batch of an epoch, trained on and evaluated."""
    made = batches(data, PLAIN, batch_size=32)
    sums = [made.batch(0, step).images.double().sum().item() for step in range(made.steps_per_epoch)]
    shown = evaluation_batches(data, np.arange(len(data)), made.pixels, batch_size=32)
    return sums + [images.double().sum().item() for images, _ in shown]


# Otherwise freed memory that the C library keeps would count, which varies by 6 to 20 MiB between runs.
GIVEN_BACK_AT_ONCE = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.data.test_pipeline import Noise, cached, epoch_sums, noise

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

epoch_sums(noise(64, 64))  # one-time allocations
allowed = kib("VmData") * 1024 + 16 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
before = kib("RssAnon")
data = cached(Noise())
for total in epoch_sums(data):
    print(total.hex())
print(data.images.nbytes, (kib("RssAnon") - before) * 1024, file=sys.stderr)
try:
    bytearray(data.images.nbytes)
except MemoryError:
    print("a copy would not have fitted", file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and the limit counts what it does on Linux")
def test_a_cache_larger_than_the_memory_allowed_gives_the_batches_of_one_that_fits():
    """No more private memory than 16 MiB, of which the system counts every page that a process could write to."""
    whole = cached(Noise())
    in_memory = Images(np.array(whole.images), whole.labels, whole.class_names)
    command = [sys.executable, "-c", IN_LITTLE_MEMORY]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | GIVEN_BACK_AT_ONCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [float.fromhex(line) for line in done.stdout.splitlines()] == epoch_sums(in_memory)
    assert "a copy would not have fitted" in done.stderr
    size, grown = map(int, done.stderr.split()[:2])
    assert size == 4096 * 64 * 64 * 3
    assert grown < 16 * 2**20


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_what_is_read_ahead_are_the_images_of_the_batch(monkeypatch):
    data = cached(Noise())
    pixels = Pixels(data, (0.5,) * 3, (0.5,) * 3, CPU)
    asked, advise = [], os.posix_fadvise

    def noted(file, place, size, advice):
        asked.append(os.pread(file, size, place))
        advise(file, place, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", noted)
    pixels.plain(np.array([2000, 3, 77]))
    assert asked == [data.images[number].tobytes() for number in (3, 77, 2000)]
