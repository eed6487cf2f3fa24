"""Durations as people write them: 90s, 10m, 2h, or plain seconds."""

import re

from volo.errors import brief

UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str | float) -> float:
    """Seconds, from a number of them or one with a unit: 600, "600", "90s", "10m", "1.5h"; never negative.

    Raises:
        ValueError: anything else.
    """
    found = isinstance(text, str | float | int) and re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(text).strip())
    if not found:
        raise ValueError(
            f"a duration must be seconds, or a number with a unit such as 90s, 10m or 2h, got {brief(text)}"
        )
    return float(found[1]) * UNITS_S[found[2]]
