"""Batches of images that are read anew: the same whatever reads them, and from wherever training goes on."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import draw_folder
from tests.data.folders.test_readers import exit_code
from volo.data import pipeline
from volo.data.crops import Cut
from volo.data.decoded.cache import Images, cached
from volo.data.folders.image import Unreadable
from volo.data.folders.imagefolder import ImageFolder
from volo.data.pipeline import Batch, Pixels, TrainingBatches
from volo.settings.augment import AugmentSettings

CPU, SIZE = torch.device("cpu"), 16
CUT = AugmentSettings(
    crop_area=(0.2, 1.0), auto_augment="trivial", random_erasing=0.3, mixup_alpha=0.8, cutmix_alpha=1.0, mix_prob=0.8
).resolved(SIZE)
SHIFTED = AugmentSettings(auto_augment="trivial", mixup_alpha=0.8).resolved(SIZE)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("images"), {"train": {"cat": 30, "dog": 30}}, size=40)


def undecoded(root) -> Images:
    source = ImageFolder(root, "train", SIZE)
    return cached(source, np.arange(0))


def batches(
    data: Images,
    augment,
    num_readers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    is_cut: bool = True,
    size: int = SIZE,
) -> TrainingBatches:
    cut = Cut(size, augment.crop_area, augment.crop_ratio) if is_cut else None
    return TrainingBatches(
        data, np.arange(len(data)), Pixels(data, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2), CPU), augment, batch_size=20, seed=3,
        epochs=5, rank=rank, world_size=world_size, cut=cut, num_readers=num_readers,
    )  # fmt: skip


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("num_readers", [1, 3])
def test_any_number_of_readers_gives_the_same_batches_in_any_order(root, num_readers):
    """Across the end of an epoch, back, and forward again."""
    data = undecoded(root)
    here, ahead = batches(data, CUT), batches(data, CUT, num_readers)
    for epoch, step in ((0, 1), (0, 2), (1, 0), (1, 1), (0, 2), (3, 0), (3, 1)):
        assert same(ahead.batch(epoch, step), here.batch(epoch, step))
    ahead.close()


@pytest.mark.parametrize("num_readers", [0, 2])
def test_parts_are_cut_to_the_size_of_the_step(root, num_readers):
    """As a training at that size has them, not cut to the full size and then shrunk. Two epochs of three steps each at
    8 and at 12 pixels, the last at 16, ahead and back. RandAugment's translations are shares of the size."""
    data, cut = undecoded(root), CUT.model_copy(update=dict(auto_augment="rand"))
    scheduled = batches(data, cut.model_copy(update=dict(resize_schedule=("8:0.4", "12:0.8"))), num_readers)
    steps = [(epoch, step) for epoch in range(5) for step in range(3)]
    for place in [*steps, (1, 2), (2, 0), (0, 0)]:
        size = (8, 8, 12, 12, 16)[place[0]]
        found, expected = scheduled.batch(*place), batches(data, cut, size=size).batch(*place)
        assert found.images.shape == (20, 3, size, size)
        assert same(found, expected)
    scheduled.close()


def test_trivial_augment_moves_smaller_images_as_far(root, monkeypatch):
    shares = []
    monkeypatch.setattr(pipeline, "trivial_augment", lambda images, _, share: shares.append(share) or images)
    scheduled = batches(undecoded(root), CUT.model_copy(update=dict(resize_schedule=("8:0.4", "12:0.8"))))
    for place in ((0, 0), (2, 0), (4, 2)):
        scheduled.batch(*place)
    assert shares == [0.5, 0.75, 1]


def test_images_without_random_parts_are_shrunk(root):
    decoded, schedule = cached(ImageFolder(root, "train", SIZE)), dict(resize_schedule=("8:0.4",))
    augment = SHIFTED.model_copy(update=schedule)
    from_cache, from_files = batches(decoded, augment, is_cut=False), batches(undecoded(root), augment, 2)
    for place in ((0, 0), (1, 2), (2, 0)):
        assert same(from_files.batch(*place), from_cache.batch(*place))
    assert from_cache.batch(1, 2).images.shape[-1] == 8
    from_files.close()


@pytest.mark.parametrize("num_readers", [0, 1])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_workers_parts_together_are_the_batch_of_one(root, world_size, num_readers):
    """Of smaller images first: the last step of an epoch is at 8 pixels, what is read ahead of it at 16."""
    data, augment = undecoded(root), CUT.model_copy(update=dict(resize_schedule=("8:0.4",)))
    whole = batches(data, augment)
    parts = [batches(data, augment, num_readers, rank, world_size) for rank in range(world_size)]
    for place in ((1, 1), (1, 2), (2, 0), (2, 1)):
        expected, found = whole.batch(*place), [part.batch(*place) for part in parts]
        assert torch.equal(torch.cat([part.images for part in found]), expected.images)
        assert torch.equal(torch.cat([part.targets for part in found]), expected.targets)
    for part in parts:
        part.close()


def test_every_epoch_cuts_other_parts(root):
    one = batches(undecoded(root), CUT)
    assert not torch.equal(one.batch(0, 0).images, one.batch(1, 0).images)


def test_without_random_parts_files_give_what_the_cache_of_decoded_images_gives(root):
    decoded = cached(ImageFolder(root, "train", SIZE))
    from_cache, from_files = batches(decoded, SHIFTED, is_cut=False), batches(undecoded(root), SHIFTED, 2)
    for step in range(3):
        assert same(from_files.batch(2, step), from_cache.batch(2, step))
    from_files.close()


def test_images_that_are_no_files_are_cut_from_what_is_decoded():
    pixels = np.random.default_rng(0).integers(0, 256, (60, SIZE, SIZE, 3), dtype=np.uint8)
    data = Images(pixels, np.arange(60) % 2, ("a", "b"))
    here, ahead = batches(data, CUT), batches(data, CUT, 2)
    assert same(here.batch(0, 0), ahead.batch(0, 0))
    whole = CUT.model_copy(update=dict(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0)))
    assert same(batches(data, whole).batch(0, 0), batches(data, whole, is_cut=False).batch(0, 0))
    ahead.close()


def test_a_killed_reader_costs_time_alone(root, caplog):
    data = undecoded(root)
    here, ahead = batches(data, CUT), batches(data, CUT, 2)
    assert same(ahead.batch(0, 0), here.batch(0, 0))
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    for epoch, step in ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)):  # those done before, and others
        assert same(ahead.batch(epoch, step), here.batch(epoch, step))
    assert "a process that decodes images was killed" in caplog.text
    ahead.close()


def test_closing_leaves_no_process(root):
    before, ahead = multiprocessing.active_children(), batches(undecoded(root), CUT, 2)
    ahead.batch(0, 0)
    processes = [child for child in multiprocessing.active_children() if child not in before]
    assert len(processes) == 2
    ahead.close()
    assert {exit_code(process) for process in processes} == {0}


@pytest.mark.parametrize("num_readers", [0, 2])
def test_a_file_that_vanishes_is_named_and_the_others_can_still_be_read(tmp_path, num_readers):
    data = undecoded(draw_folder(tmp_path, {"train": {"cat": 30, "dog": 30}}, size=20))
    file = Path(data.source.name_of(7))
    content = file.read_bytes()
    file.unlink()
    ahead = batches(data, CUT, num_readers)
    with pytest.raises(Unreadable, match=r"every image must be readable, got .*cat/0007\.png"):
        for step in range(3):
            ahead.batch(0, step)
    file.write_bytes(content)
    assert same(ahead.batch(0, 2), batches(data, CUT).batch(0, 2))
    ahead.close()


def test_pixels_that_are_not_decoded_are_read_when_they_are_needed(root):
    """A stem is whitened by training images, which stay in their files."""
    decoded = cached(ImageFolder(root, "train", SIZE))
    partly = cached(ImageFolder(root, "train", SIZE), np.arange(10))
    numbers = np.array([3, 40, 5, 59])
    assert np.array_equal(partly.pixels(numbers), decoded.pixels(numbers))
    assert np.array_equal(undecoded(root).pixels(numbers), decoded.pixels(numbers))
    found, expected = (Pixels(data, (0.5,) * 3, (0.2,) * 3, CPU).plain(numbers) for data in (undecoded(root), decoded))
    assert torch.equal(found, expected)
