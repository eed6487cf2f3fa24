"""Durations, and the settings that take them."""

import pytest

from volo.errors import InputError
from volo.settings.config import build_settings
from volo.settings.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [(90, 90), ("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("0", 0)]
)
def test_a_duration_is_seconds_minutes_or_hours(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-5m", "5 days", "m", "nan", "1e3", "1.s"])
def test_what_is_none_is_refused(text):
    with pytest.raises(ValueError, match="a duration must be seconds, or a number with a unit such as 90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("given", "steps", "seconds"), [(None, None, None), (200, 200, None), ("200", 200, None), ("5m", None, 300)]
)
def test_checkpoints_go_by_steps_or_by_time(given, steps, seconds):
    run = build_settings({"run": {"checkpoint_every": given}}).run
    assert (run.checkpoint_steps, run.checkpoint_s) == (steps, seconds)


@pytest.mark.parametrize("given", [0, "0", "often", "0m", -1])
def test_checkpoints_every_nothing_are_refused(given):
    with pytest.raises(InputError, match="checkpoint_every must be a number of steps or a duration above 0"):
        build_settings({"run": {"checkpoint_every": given}})
