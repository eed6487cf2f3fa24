"""What the library says once, such as which formulation computes: on the terminal of a job, in a worker's log."""

import logging
import os
import sys
from functools import cache

LOGGER = logging.getLogger("volo")


@cache
def say_once(message: str) -> None:
    LOGGER.info(message)


def show_log() -> None:
    """Writes the library's messages to standard error; of torchrun's ranks only the first one's."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
