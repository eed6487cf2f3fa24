"""Inside a job of `ray job submit`: which paths outlast it, and how long it has to save when it is stopped."""

import os

from volo.errors import InputError
from volo.settings.buckets import is_in_bucket

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets the variable of this name for a job's command
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"  # from `ray job stop` to SIGKILL, in seconds; Ray reads it on the head
STOP_WAIT_S = 3  # if it is not set
TIME_TO_SAVE_S = 30
MORE_TIME = (
    f"start the head with {STOP_WAIT}=120, or submit the job with "
    f"""--runtime-env-json '{{"env_vars": {{"{STOP_WAIT}": "120"}}}}'"""
)


def in_ray_job() -> bool:
    return bool(os.environ.get(IN_JOB))


def check_lasts(path: str | None, name: str) -> None:
    """Raises InputError, inside a Ray job, for results in its working directory, a copy that Ray removes.

    Args:
        path: As given to the flag or setting `name`; None if it is chosen later.
    """
    if path is not None and in_ray_job() and not (is_in_bucket(path) or path.startswith(("/", "~"))):
        raise InputError(
            f"{name} must be an absolute path in a Ray job, whose working directory is a copy that Ray removes, got "
            f"{path!r}; name a place that every node sees, such as {name} /shared/{os.path.basename(path)}, or s3://"
        )


def hurry(stop_wait: str | None) -> str:
    """What is wrong with the time that `ray job stop` leaves to save; empty if nothing is.

    Args:
        stop_wait: The value of $RAY_JOB_STOP_WAIT_TIME_S; None if it is not set.
    """
    wait_s = int(stop_wait) if stop_wait and stop_wait.isdigit() else STOP_WAIT_S
    if wait_s >= TIME_TO_SAVE_S:
        return ""
    return f"`ray job stop` kills after {wait_s} s, which may be too short to save"
