"""Messages that the library logs once, such as the chosen formulation: on a job's terminal or in a worker's log."""

import logging
import os
import sys
from functools import cache

LOGGER = logging.getLogger("volo")


@cache
def say_once(message: str) -> None:
    LOGGER.info(message)


@cache
def warn_once(message: str) -> None:
    LOGGER.warning(message)


def show_log() -> None:
    """Writes the library's messages to standard error; under torchrun, only from the first rank."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
