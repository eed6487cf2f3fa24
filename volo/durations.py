"""Durations as people write them: 90, 90s, 10m, 1.5h."""

import re

UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError for what is no positive number with one of the units s, m and h, or none."""
    found = re.fullmatch(r"(\d+\.?\d*)([smh]?)", text.strip())
    seconds = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if not seconds > 0:
        raise ValueError(f"a duration must be a number above 0, as in 90, 90s, 10m or 1.5h, got {text!r}")
    return seconds
