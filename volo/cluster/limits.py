"""What the system must allow Ray's processes, which only dump their stacks if it does not."""

import resource

from volo.errors import InputError

ENOUGH_FILES, LEAST_FILES = 4096, 1024  # the raylet opens some for each worker


def allow_open_files() -> None:
    """Raises this process's limit on open files, which those that it starts inherit, as far as may be.

    Raises:
        InputError: too few may be open for a cluster on this machine.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < LEAST_FILES:
        raise InputError(
            f"a cluster started for this command needs at least {LEAST_FILES:,} open files, got a limit of {hard:,}; "
            f"raise it (ulimit -Hn {ENOUGH_FILES}, or the batch system's own setting), or train with --num-workers 0"
        )
    if soft != unlimited and soft < ENOUGH_FILES:
        enough = ENOUGH_FILES if hard == unlimited else min(ENOUGH_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
