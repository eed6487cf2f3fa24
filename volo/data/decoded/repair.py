"""Damage in a cache of decoded images: found, put into words, and removed, so that the images are decoded again."""

import os
from collections.abc import Callable

import numpy as np

from volo.console import Progress
from volo.data.decoded.store import COMMIT_BYTES, Store
from volo.log import LOGGER


def repair(store: Store, keys: np.ndarray) -> None:
    """Removes what is damaged from a store; all of it is checked if some of the images to be used are damaged."""
    if store.flaw:
        LOGGER.warning("the image cache is damaged (%s); decoding its images again", store.flaw)
        store.discard()
    rows = store.rows(keys)
    if not len(store.damaged(store.sample(rows[rows >= 0]))):
        return
    damaged = _all_damaged(store, lambda: os.utime(store.folder))  # those who wait look at its time
    LOGGER.warning("the image cache is damaged (%s); decoding them again", _in_words(store, damaged))
    if 2 * len(damaged) < len(store.used()):
        store.forget(damaged)
    else:
        store.discard()


def flaw_of(store: Store) -> str:
    """What is damaged in a store, for which all of it is read; empty if nothing is."""
    damaged = _all_damaged(store)
    return store.flaw or (_in_words(store, damaged) if len(damaged) else "")


def _in_words(store: Store, damaged: np.ndarray) -> str:
    return f"{len(damaged):,} of {len(store.used()):,} images in {store.folder} are not what was decoded"


def _all_damaged(store: Store, beat: Callable[[], None] = lambda: None) -> np.ndarray:
    """(n,) all rows with other pixels than were stored. Calls `beat` now and then."""
    used, at_once = store.used(), max(1, COMMIT_BYTES // store.row_bytes)
    found = [used[:0]]
    with Progress("checking decoded images", len(used), "images") as progress:
        for start in range(0, len(used), at_once):
            found.append(store.damaged(used[start : start + at_once]))
            beat()
            progress.update(min(start + at_once, len(used)))
    return np.concatenate(found)
