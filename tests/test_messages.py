"""Messages name a value, and are short whatever it is."""

import pickle
import typing
from collections import OrderedDict
from importlib import import_module
from pathlib import Path

import pytest

from volo.cli.main import COMMANDS, module_of
from volo.cli.main import main as volo_command
from volo.cli.outcome import MAX_ARGUMENT, exit_code
from volo.cli.parse import parse_settings
from volo.console import print_table
from volo.errors import MAX_LINE, MAX_VALUE, InferenceError, InputError, TrainingError, brief
from volo.settings.config import MAX_FINDINGS, SECTIONS, Settings, build_settings
from volo.settings.model import FORMS

LONG = 50_000
# Rule, remedy, the names of all settings of a section: what a message holds besides the value.
BESIDES = 600


def shared(depth: int, make) -> object:
    """Small in memory; written out it would have 20**depth parts."""
    value: object = make([1])
    for _ in range(depth):
        value = make([value] * 20)
    return value


HUGE = {
    "a word": "x" * LONG,
    "words": "a b " * (LONG // 4),
    "lines": "a\n" * (LONG // 2),
    "a list": [1] * LONG,
    "a number": 10**5000,
    "nested": shared(100, list),
    "nested dictionaries": shared(100, lambda parts: OrderedDict(enumerate(parts))),
    "many keys": {f"key{number}": number for number in range(LONG // 10)},
    "bytes": b"x" * LONG,
}
FIELDS = sorted(
    (section, name)
    for section in SECTIONS
    for kind in (FORMS.values() if section == "model" else [Settings.model_fields[section].annotation])
    for name in typing.cast(typing.Any, kind).model_fields
)


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
def test_a_value_is_shown_in_a_few_hundred_characters(value):
    assert len(brief(value)) <= MAX_VALUE


@pytest.mark.parametrize(
    "value", ["x", "it's", 3, 0.5, None, True, ["a", 1], (1,), (), {"a": [1]}, Path("a"), -(10**9)]
)
def test_a_small_value_is_shown_as_python_writes_it(value):
    assert brief(value) == repr(value)


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("section", SECTIONS)
def test_a_huge_value_of_any_setting_gets_a_short_message(section, value):
    for name in [name for part, name in FIELDS if part == section]:
        message = refusal({section: {name: value}})
        assert len(message) <= (MAX_VALUE + BESIDES) * MAX_FINDINGS
        assert all(len(line) <= MAX_VALUE + BESIDES for line in message.split("\n")), (name, message)
    for values in ({section: value}, {section: {"x" * LONG: value}}, {"x" * LONG: value}, {"recipe": value}):
        assert all(len(line) <= 2 * MAX_VALUE + BESIDES for line in refusal(values).split("\n"))


def refusal(values: dict) -> str:
    """What is said of settings; empty if they are accepted."""
    try:
        build_settings(values)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", [InputError, TrainingError, InferenceError])
def test_what_a_message_quotes_is_cut_in_the_middle_and_its_lines_are_kept(kind):
    said = str(kind(f"a path must be short, got {'x' * LONG}; use another\n" + "a b " * LONG + "\nlast"))
    first, second, last = said.split("\n")
    assert first.startswith("a path must be short, got xxx") and first.endswith("xxx; use another")
    assert len(first) < MAX_VALUE + 60
    assert len(second) <= MAX_LINE
    assert last == "last"
    assert str(pickle.loads(pickle.dumps(kind(said)))) == said


def test_a_message_moves_no_cursor_and_colors_nothing():
    assert str(InputError("got a\x1b[31m\rb\tc\nd")) == "got a\\x1b[31m\\x0db\tc\nd"


def test_a_printed_table_moves_no_cursor_and_keeps_a_line_a_row(capsys):
    print_table(("run", "state"), [("a\x1b[2Jb\nc", "finished")])
    assert capsys.readouterr().out == f"{'run':12}  {'state':>8}\na\\x1b[2Jb\\nc  finished\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_repeats_an_endless_argument(command, capsys):
    main = import_module(module_of(command)).main
    for word in ("--run-name=" + "x" * MAX_ARGUMENT, "a b" * LONG):
        assert exit_code(main, [word]) == 2
        errors = capsys.readouterr().err
        assert f"at most {MAX_ARGUMENT:,} characters" in errors
        assert len(errors) < MAX_LINE + len("error: \n")


def test_a_command_that_does_not_exist_is_not_repeated_endlessly(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["volo", "x" * LONG])
    with pytest.raises(SystemExit):
        volo_command()
    assert len(capsys.readouterr().err) < MAX_LINE


@pytest.mark.parametrize(
    "flag", ["--recipe", "--config", "--run-name", "--address", "--data-dir", "--checkpoint-every"]
)
@pytest.mark.parametrize("value", ["x" * MAX_ARGUMENT, "a b " * (MAX_ARGUMENT // 4)], ids=["a word", "words"])
def test_a_long_flag_gets_a_short_message_or_is_taken(flag, value):
    try:
        parse_settings([flag, value], prog="train", description="")
    except InputError as error:
        assert len(str(error)) <= MAX_LINE
