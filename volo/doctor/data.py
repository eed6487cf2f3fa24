"""Checks that the chosen data set is present and intact, and the space for its decoded images. Downloads nothing."""

import platform
from dataclasses import replace

import numpy as np

from volo.data.archives.fetch import look, mirrored
from volo.data.contents import Contents
from volo.data.datasets import drawn_from, num_drawn_from, open_source, open_sources, split_of
from volo.data.folders.damage import Damage, DamagedImages
from volo.data.folders.encoded import EncodedImages
from volo.data.folders.passed_over import PassedOver
from volo.doctor.cache import ARCHIVES, cache_flaws, cache_room, is_here, judged, store_of
from volo.doctor.findings import Finding, failure, ok, refused, warning
from volo.errors import InputError
from volo.settings.data import ResolvedData
from volo.training.guards.same_data import Seen, digests_of, in_short, own_place

NUM_DECODED = 16


def check_data(data: ResolvedData) -> Finding:
    """Checks an archive's checksums, or an image folder's classes and splits, and decodes some of its images.

    Args:
        data: Resolved.

    Raises:
        InputError: for data that training would refuse.
    """
    if data.dataset == "shapes":
        return ok("data", "shapes are drawn, no files are read")
    return _check_folder(data) if data.dataset == "imagefolder" else _check_archive(data)


def check_cache(data: ResolvedData) -> Finding:
    """Says what training images are read from; checks every decoded image, and the space on this machine for those
    that a training decodes, by the same numbers as training."""
    found = judged(cache_room(data))
    found = replace(found, found="; ".join(filter(None, [store_of(data), found.found])))
    damaged = cache_flaws(data)
    if not damaged or found.status == "failure":
        return found
    remedy = "; ".join(filter(None, ["the next training decodes them again", found.remedy]))
    return warning("cache", f"{found.found}; damaged: {'; '.join(damaged)}", remedy)


def seen_undecoded(data: ResolvedData) -> Seen:
    """What training compares between the nodes, without decoding the images; without digests if an archive is still to
    be downloaded.

    Args:
        data: Resolved; opened where this machine has them.
    """
    host = platform.node()
    try:
        here, place = data.here(), own_place(data)
        if not is_here(here):
            return Seen(host, None, {}, f"no {data.dataset} yet, which a training downloads", place)
        source = open_source(here, "train")
        split = split_of(source, here)
        contents = source.contents(num_drawn_from(source, here))
    except InputError as error:
        return Seen(host, str(error), {})
    words = in_short(len(source.labels), source.class_names, split)
    return Seen(host, None, digests_of(source.class_names, contents, split), words, place)


def contents_here(data: ResolvedData) -> Contents:
    """The images of `seen_undecoded`. Raises InputError for data that training would refuse."""
    return drawn_from(data.here())


def _check_archive(data: ResolvedData) -> Finding:
    archive = mirrored(ARCHIVES[data.dataset])
    if found := look(archive, data.folder):
        return ok("data", f"{found}, whose checksums match")
    return warning(
        "data", f"no {data.dataset} in {data.data_dir}",
        f"training downloads {archive.url}; without a network, save it there as {archive.file}",
    )  # fmt: skip


def _check_folder(data: ResolvedData) -> Finding:
    train, *tests = sources = [one for one in open_sources(data) if isinstance(one, EncodedImages)]
    found = f"{len(train.labels):,} images of {len(train.class_names)} classes in {data.data_dir}"
    found += f"; {len(tests[0].labels):,} to test on" if tests else ", and no test split"
    found += "".join(f"; {note}" for note in train.notes)
    passed_over = PassedOver()
    for one in {source.place: source.passed_over for source in sources}.values():
        passed_over.add(one)
    remedies = [] if tests else ["add test/<class>/ to analyze with, or use --split val"]
    for source in sources:
        remedies += _damaged(source, data)
    if passed_over:
        found += f"; skipped: {passed_over.in_words()}"
        remedies += filter(None, [passed_over.remedy()])
    try:
        split = split_of(train, data)
    except InputError as error:
        reason, remedy = refused(error)
        return failure("data", f"{found}; {reason}", remedy)
    found += f"; {len(split.train):,} to train on, {len(split.val):,} to validate on"
    return warning("data", found, ", and ".join(remedies)) if remedies else ok("data", found)


def _damaged(source: EncodedImages, data: ResolvedData) -> list[str]:
    """Decodes some of the images. If any is damaged, returns a remedy if training would skip it, and raises InputError
    otherwise."""
    apart = max(1, len(source.labels) // NUM_DECODED)
    sample = np.arange(len(source.labels))[::apart][:NUM_DECODED]
    read = zip(sample.tolist(), source.decode(sample), strict=True)
    damaged = [Damage(number, source.name_of(number), image) for number, image in read if isinstance(image, str)]
    if damaged and not data.skip_damaged:
        refusal = DamagedImages(damaged, len(sample), None)
        raise InputError(f"{refusal}, or leave out damaged images with --skip-damaged")
    return [f"check {damaged[0]}, which would be left out"] if damaged else []
