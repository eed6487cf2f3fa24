"""Checks whether this machine can write to the output folder, and whether the checkpoints to come have room there."""

import os
import tempfile
from pathlib import Path

from volo.console import format_bytes
from volo.doctor.cache import TIGHT
from volo.doctor.findings import Finding, failure, ok, warning
from volo.files import existing, free_bytes
from volo.runs.disk_room import checkpoint_bytes, needed_bytes, num_checkpoints
from volo.settings.buckets import is_in_bucket
from volo.settings.config import Settings
from volo.storage.bucket import check_bucket
from volo.training.seeds import of_seed


def check_output(place: str) -> Finding:
    """Writes a file to the output folder, or to the nearest existing folder above it, and removes it; or an object.

    Raises:
        InputError: object storage that cannot be used.
    """
    if is_in_bucket(place):
        check_bucket(place, "--output-dir")
        return ok("output", f"{place} can be written, and refuses to write twice")
    output_dir = Path(place)
    folder = existing(output_dir)
    try:
        with tempfile.NamedTemporaryFile(prefix=".volo-doctor-", dir=folder) as file:
            file.write(b"a line\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = "check its permissions and its disk's free space, or set --output-dir"
        return failure("output", f"{folder} cannot be written ({error.strerror})", remedy)
    return ok("output", f"{output_dir} can be written" + ("" if folder == output_dir else ", once it is created"))


def check_disk(settings: Settings) -> Finding:
    """Checks the space for the checkpoints of every run that the settings name."""
    needed, free, checkpoints = checkpoint_room(settings)
    found = f"{format_bytes(free)} free, {format_bytes(needed)} needed for {checkpoints}"
    remedy = "free some space, lower --keep-checkpoints, or set --output-dir to another disk"
    if needed > free:
        return failure("disk", found, remedy)
    return warning("disk", found, remedy) if TIGHT * needed > free else ok("disk", found)


def checkpoint_room(settings: Settings) -> tuple[int, int, str]:
    """Bytes that the checkpoints to come need and that are free for them on this machine, and their number in words."""
    runs = [of_seed(settings, seed) for seed in settings.run.seeds] if settings.run.seeds else [settings]
    checkpoints = f"{len(runs) * num_checkpoints(settings)} checkpoints of {format_bytes(checkpoint_bytes(settings))}"
    return sum(map(needed_bytes, runs)), free_bytes(settings.run_dir), checkpoints
