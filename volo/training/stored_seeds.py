"""Several seeds on object storage: <run>/seed0, <run>/seed1 ... are runs there, beside <run>/seeds.json."""

import contextlib
import re
from collections.abc import Iterator, Sequence

from volo.cache import place_of_copies
from volo.errors import InputError
from volo.files import replaced
from volo.log import LOGGER
from volo.runs import stored
from volo.runs.folder import changed_settings
from volo.runs.places import CONFIG, SEEDS
from volo.settings.config import Settings, build_settings
from volo.settings.differences import FREE_ON_RESUME, differences
from volo.settings.yaml_files import read_yaml
from volo.storage.bucket import CHECK_S, Bucket, check_bucket
from volo.storage.lease import is_held

OF_SEED = re.compile(r"seed[0-9]+/.+")


def check_seeds(settings: Settings, runs: Sequence[Settings]) -> None:
    """Raises InputError if the place cannot be written or holds something else, or a run cannot be resumed."""
    check_bucket(settings.home, "--output-dir")
    with _refusals(settings):
        others = [name for name in _names(settings) if not (OF_SEED.fullmatch(name) or name == SEEDS)]
        if others:
            raise InputError(
                f"{settings.home} must hold runs of seeds or nothing, got {others[0]}; choose another --run-name"
            )
        for one in runs:
            _check_same(one)


def set_seeds_aside(settings: Settings, runs: Sequence[Settings]) -> None:
    """Renames earlier runs of this name there. Raises InputError if one is being trained."""
    with _refusals(settings):
        if not _names(settings):
            return
        for one in runs:
            if is_held(Bucket(one.home, CHECK_S)):
                raise InputError(f"{one.home} is being trained by another process; wait for it or end it")
        print(f"renamed the previous runs to {stored.set_aside(Bucket(settings.home))}", flush=True)


def keep_summary(settings: Settings, text: str) -> None:
    """Takes the summary there. Training does not end if it cannot: the next start makes it again."""
    try:
        Bucket(settings.home).write(SEEDS, text.encode())
    except OSError as error:
        LOGGER.warning("%s/%s could not be written: %s", settings.home, SEEDS, error)


def _names(settings: Settings) -> list[str]:
    return [name for name in Bucket(settings.home, CHECK_S).names() if stored.is_of_run(name)]


def _check_same(settings: Settings) -> None:
    """As a run that is opened is checked, without bringing its checkpoint here."""
    bucket = Bucket(settings.home, CHECK_S)
    names = bucket.names()
    if CONFIG not in names or not stored.manifests(names):
        return
    path = place_of_copies("listings", settings.home) / CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        bucket.fetch(CONFIG, partial)
    try:
        before = build_settings(read_yaml(path))
    except InputError:  # damaged; the checkpoint holds the settings as well
        return
    changed = {name: pair for name, pair in differences(before, settings).items() if name not in FREE_ON_RESUME}
    if changed:
        raise changed_settings(settings, changed)


@contextlib.contextmanager
def _refusals(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--output-dir must be a place that can be read and written, got {settings.home}: {error.strerror}"
        ) from None
