"""Wherever a command takes a path, one that cannot be is refused in one line, and nothing is written."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from pydantic.fields import FieldInfo

import volo
from volo.cli.about.completion import flags_of
from volo.cli.flags import flag_of
from volo.cli.outcome import exit_code
from volo.cli.pipeline import PipelineOptions
from volo.cli.tune import INSTEAD
from volo.data.decoded.cache import cache_dir
from volo.errors import InputError
from volo.settings.buckets import is_in_bucket
from volo.settings.config import SECTIONS, Settings, build_settings
from volo.settings.paths import check_path, local_path
from volo.settings.section import CHECKED, CHECKED_PLACE, CHECKED_WEIGHTS

ROOT = Path(__file__).parents[2]

# The flags that take a text of another kind. Any other that takes a text takes a path.
NO_PATHS = {"recipe", "checkpoint_every", "hang_timeout", "num_workers", "address", "dashboard_host"}
NO_PATHS |= {"objectives", "max_concurrent", "name"}
NAMES = {"run_name", "sweep_name"}  # of folders that volo makes
POSITIONAL = {("compare", "runs")}
ENDINGS = {("predict", "output"): ".csv", ("export", "output"): ".pt2", ("tune", "space"): ".py"}
WITH = {"teacher": ["--distillation", "0.5"]}
GIVEN: dict[str, dict[str, str]] = {
    "train": {"dataset": "imagefolder", "num_workers": "0"},
    "doctor": {"dataset": "imagefolder", "num_workers": "0"},
    "tune": {"dataset": "imagefolder", "space": "mix"},
    "pipeline": {"dataset": "imagefolder"},
    "analyze": {"checkpoint": "x"},
    "predict": {"checkpoint": "x", "input": "x"},
    "export": {"checkpoint": "x", "output": "x.pt2"},
    "pack": {"data_dir": "x", "output": "y"},
    "submit": {},
    "compare": {"runs": "x"},
    "runs": {"fetch": "s3://bucket/run"},
}
NOT_OF_A_SWEEP = {"tune": set(INSTEAD), "pipeline": {field.name for field in dataclasses.fields(PipelineOptions)}}
OF_SETTINGS_TOO = {"doctor", "tune", "pipeline"}  # commands that check settings as train does

UNKNOWN_USER, LONG_NAME, IN_A_FILE = "~nosuchuser/x", "x" * 300, "file/x"
ANYWHERE = (UNKNOWN_USER, LONG_NAME, IN_A_FILE, "x/" * 2100 + "x", "x\0x", "\ud800", "circle/x")
NO_FOLDER = "file"

IN_BUCKETS = ["--output-dir", "--data-dir", "--init-weights", "--resume-path", "--teacher"]  # of the settings
COMMANDS = [
    *[(job, "--config URL --num-workers 0") for job in ("train", "doctor")],
    ("tune", "--space mix --config URL"),
    *[("tune", "--space URL"), ("tune", "--space URL/a.py"), ("tune", "--space mix --sweep-name URL")],
    *[("pipeline", "--config URL"), ("pipeline", "--space mix --sweep-name URL")],
    *[("analyze", "--checkpoint x --output-dir URL"), ("predict", "--checkpoint x --input x URL")],
    *[("predict", "--checkpoint x --input x --output URL"), ("export", "--checkpoint x --output URL")],
    *[("pack", "--data-dir URL --output x"), ("pack", "--data-dir x --output URL")],
    *[("compare", "x y --output-dir URL"), ("runs", "--fetch s3://bucket/run --output-dir URL")],
]
TAKE_BUCKETS = [
    *[(job, f"{flag} URL --num-workers 0") for job in ("train", "doctor") for flag in IN_BUCKETS],
    *[("tune", f"--space mix {flag} URL") for flag in IN_BUCKETS if flag != "--resume-path"],
    *[("pipeline", f"{flag} URL") for flag in IN_BUCKETS],
    ("pipeline", "--space mix --output-dir URL"),
    *[("analyze", "--checkpoint URL"), ("analyze", "--checkpoint x --data-dir URL")],
    *[("predict", "--checkpoint URL --input x"), ("export", "--checkpoint URL --output x.onnx")],
    *[("compare", "URL x"), ("compare", "x URL"), ("runs", "--output-dir URL")],
]


@pytest.mark.parametrize(("job", "command"), COMMANDS, ids=lambda part: part.replace(" ", "_"))
def test_a_url_is_refused_by_name_wherever_a_path_is_meant(job, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"volo.cli.{job}").main
    assert exit_code(main, command.replace("URL", "s3://bucket/run").split()) == 2
    said = capsys.readouterr().err
    assert "must be a path, got 's3://bucket/run" in said
    assert "; use a path on a disk that every node sees" in said
    if "/a.py" not in command:
        empty = [arg.replace("URL", "") for arg in command.split()]
        assert exit_code(main, empty) == 2
        assert "must name a path, got ''" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


OTHER_KINDS = ("hdfs://host/run", "s3:/bucket/run", "file:///tmp/run")
NO_PLACES = ("s3://", "s3://b/../c", "s3://B/x", "s3://b/x y", "gs://b//c", f"s3://b/{'n' * 700}")


@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize(("job", "command"), TAKE_BUCKETS, ids=lambda part: part.replace(" ", "_"))
def test_a_url_of_another_kind_than_object_storage_is_refused_by_name_where_that_is_taken(
    job, command, is_whole, tmp_path, monkeypatch, capsys
):
    """Each command some of the URLs, so that each URL is refused by many."""
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"volo.cli.{job}").main
    turn = TAKE_BUCKETS.index((job, command))
    kinds, places = (urls if is_whole else urls[turn % len(urls) :][:1] for urls in (OTHER_KINDS, NO_PLACES))
    for url in kinds:
        assert exit_code(main, command.replace("URL", url).split()) == 2
        said = capsys.readouterr().err
        assert f"must be a path, got '{url}'" in said and "only s3://, gs://, az:// are known" in said
    for place in places:
        assert exit_code(main, [part.replace("URL", place) for part in command.split()]) == 2
        assert "must be a path, or " in capsys.readouterr().err
    empty = [arg.replace("URL", "") for arg in command.split()]
    assert exit_code(main, empty) == 2
    assert "must name a path, got ''" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["s3://b/x", "gs://b", "file:///tmp/x", "HTTPS://h/x", "hdfs:/x", "az+ssh://x"])
def test_every_scheme_is_a_url_and_what_looks_like_one_is_not(url):
    with pytest.raises(InputError, match="URLs are not supported here"):
        local_path(url, "--output-dir")
    if not is_in_bucket(url):
        with pytest.raises(InputError, match="only s3://, gs://, az:// are known"):
            volo.load(url)
    for path in ("a:b", "C:/x", "./s3:/x", "s3", "runs/12:30", "/s3://x", "~/x"):
        assert check_path(path, "--output-dir") == path
        assert local_path(path, "--output-dir").is_absolute()


@pytest.mark.parametrize("job", ["analyze", "predict"])
def test_an_empty_address_is_not_taken_for_none(job, capsys):
    main = importlib.import_module(f"volo.cli.{job}").main
    flags = ["--input", "x"] if job == "predict" else []
    assert exit_code(main, ["--checkpoint", "x", *flags, "--address", ""]) == 2
    assert "address string must have at least 1 character, got ''" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["VOLO_CACHE_DIR", "XDG_CACHE_HOME"])
def test_a_cache_at_a_url_is_refused(monkeypatch, name):
    monkeypatch.delenv("VOLO_CACHE_DIR")
    monkeypatch.setenv(name, "s3://bucket/cache")
    said = f"{name} must be a path, got 's3://bucket/cache': URLs are not supported here"
    with pytest.raises(InputError, match=said):
        cache_dir()


def path_flags(command: str) -> list[str]:
    """Of the command's own parser: the flags that take any text, but for those whose text is known to be no path."""
    apart = NO_PATHS | NAMES | NOT_OF_A_SWEEP.get(command, set())
    return [name for name in texts(flags_of(command)) if name not in apart]


def names_of(command: str) -> set[str]:
    return NAMES & {*texts(flags_of(command))} - NOT_OF_A_SWEEP.get(command, set())


def texts(kind: type) -> Iterator[str]:
    for one in dataclasses.fields(kind):
        if dataclasses.is_dataclass(one.type):
            yield from texts(one.type)
        elif takes_text(one.type):
            yield one.name


def takes_text(kind: object) -> bool:
    return kind is str or any(map(takes_text, typing.get_args(kind)))


def command_line(command: str, name: str, value: str) -> list[str]:
    value += ENDINGS.get((command, name), "")
    if (command, name) in POSITIONAL:
        return ["x", value]
    given = {flag_of(other): text for other, text in GIVEN[command].items() if other != name}
    positional = [given.pop(flag_of(other)) for of, other in POSITIONAL if of == command]
    return [
        *positional * 2,
        *(part for pair in given.items() for part in pair),
        flag_of(name),
        value,
        *WITH.get(name, ()),
    ]


def refusal(command: str, name: str, value: str) -> str:
    """What is wrong with the answer to a value that must be refused; empty if nothing is."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            code = exit_code(importlib.import_module(f"volo.cli.{command}").main, command_line(command, name, value))
        except SystemExit as end:
            code = end.code
    answer = said.getvalue()
    is_line = answer.startswith("error: ") and answer.count("\n") == 1 and len(answer) < 700
    if code == 2 and is_line and repr(value)[1:12].rstrip("'") in answer:
        return ""
    return f"volo {command}, {name}={value[:40]!r}: code {code}, {answer[-1500:]}"


@pytest.mark.parametrize("command", GIVEN)
def test_a_path_that_cannot_be_is_refused_in_one_line_by_every_flag_that_takes_one(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "circle").symlink_to("circle")
    flags = path_flags(command)
    assert flags
    values = (UNKNOWN_USER, IN_A_FILE) if command in OF_SETTINGS_TOO else ANYWHERE
    asked = [(name, value) for name in flags for value in values]
    asked += [(name, NO_FOLDER) for name in flags if name.endswith("_dir")]
    asked += [(name, value) for name in names_of(command) for value in (UNKNOWN_USER, LONG_NAME)]
    if command == "doctor":  # what is wrong on the disk is a finding of its own, beside the others
        asked = [(name, value) for name, value in asked if value not in (IN_A_FILE, NO_FOLDER)]
    assert not [wrong for name, value in asked if (wrong := refusal(command, name, value))]
    assert {path.name for path in tmp_path.iterdir()} == {"file", "circle"}


@pytest.mark.parametrize("command", ["train", "analyze", "runs"])
def test_a_working_directory_that_is_gone_is_named(command, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    main = importlib.import_module(f"volo.cli.{command}").main
    assert exit_code(main, command_line(command, "output_dir", "relative-path")) == 2
    assert "must be an absolute path if the working directory is gone, got" in capsys.readouterr().err


DROPS = """
import json, os, sys
import volo.data.folders.sizing, volo.tuning.search.spaces
from tests.cli.test_paths import ENDINGS, GIVEN, UNKNOWN_USER, cache_dir, path_flags, refusal
flags = {command: path_flags(command) for command in GIVEN if command != "doctor"}
for command in flags:
    assert not refusal(command, flags[command][-1], UNKNOWN_USER)  # imports all it needs, while this user still can
if os.getuid() == 0:
    os.setgroups([]); os.setgid(54321); os.setuid(54321)
del os.environ["VOLO_CACHE_DIR"]
values = sys.argv[1:]
asked = [(command, name, value) for command in flags for name in flags[command] for value in values]
asked = [one for one in asked if one[:2] not in ENDINGS or one[2] != values[0]]  # with an ending it is not that folder
print(json.dumps([[wrong for one in asked if (wrong := refusal(*one))], str(cache_dir())]))
"""


def test_a_user_who_may_not_enter_a_folder_or_has_no_home_is_told_so_in_one_line():
    closed = Path(tempfile.mkdtemp())
    closed.chmod(0)
    values = [str(closed), f"{closed}/x"]
    is_root = os.getuid() == 0  # then as a user without an entry in passwd
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    try:
        command = [sys.executable, "-c", DROPS, *values, *["~/x"] * is_root]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    finally:
        closed.rmdir()
    assert done.returncode == 0, done.stderr
    wrongs, cache = json.loads(done.stdout)
    assert not wrongs
    assert not is_root or cache.startswith(tempfile.gettempdir())


def test_a_folder_whose_name_is_no_text_is_read_and_shown():
    with tempfile.TemporaryDirectory(suffix="\udcff") as folder:
        command = [sys.executable, "-m", "volo", "runs", "--output-dir", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff" in done.stdout


def described(path: Path, config: dict) -> Path:
    """A model file whose description holds these settings."""
    texts = {"format": "volo", "schema_version": "1", "class_names": '["a", "b"]', "config": json.dumps(config)}
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(1, np.float32)}, texts))
    return path


IN_SECTIONS = [{"data": {"dataset": "imagefolder", "data_dir": "PATH"}}, {"run": {"output_dir": "PATH"}}]


@pytest.mark.parametrize("section", IN_SECTIONS)
def test_a_path_in_a_models_description_is_judged_by_its_text_alone(tmp_path, section):
    def config(path: str) -> dict:
        return json.loads(json.dumps(section).replace("PATH", path))

    model = described(tmp_path / "model.safetensors", config(UNKNOWN_USER))
    with pytest.raises(InputError, match="there is no user 'nosuchuser'"):
        volo.load(model)
    (tmp_path / "file").write_text("text")
    assert build_settings(config(str(tmp_path / IN_A_FILE))).resolved()  # right on the machine that it comes from


def test_every_path_among_the_settings_is_made_absolute():
    settings = Settings()
    fields = [(name, *field) for name in SECTIONS for field in type(getattr(settings, name)).model_fields.items()]
    checked = {(section, name) for section, name, field in fields if is_path(field)}
    assert checked == {(section, name) for section, values in settings.paths().items() for name in values}


def is_path(field: FieldInfo) -> bool:
    metadata = [*field.metadata, *(one for kind in typing.get_args(field.annotation) for one in typing.get_args(kind))]
    return any(check in metadata for check in (CHECKED, CHECKED_PLACE, CHECKED_WEIGHTS))


@pytest.mark.parametrize("name", ["VOLO_CACHE_DIR", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("value", [UNKNOWN_USER, LONG_NAME])
def test_a_cache_at_a_path_that_cannot_be_is_refused(monkeypatch, name, value):
    monkeypatch.delenv("VOLO_CACHE_DIR")
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} must (begin with a home folder|have names of at most 255)"):
        cache_dir()


# Beside the one that is for it: one does as Ray does, the other keeps the names of files as they were typed.
EXPAND = {"volo/settings/paths.py", "volo/cluster/access.py", "volo/analysis/explaining/images.py"}
HOME = re.compile(r"expanduser|\.home\(")


def test_one_module_knows_what_a_home_folder_is():
    sources = [*(ROOT / "volo").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in sources if HOME.search(path.read_text())} == EXPAND


ODD_NAMES = [
    "",
    " ",
    ".",
    "..",
    "a/..",
    "../a",
    "a/../b",
    "/tmp/a",
    "a//b",
    "a/",
    "~/a",
    "a b",
    "a\nb",
    "a*",
    "n" * 300,
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize(
    "command",
    ["train --run-name", "pipeline --run-name", "doctor --run-name", "tune --space mix --sweep-name",
     "pipeline --space mix --sweep-name"],
)  # fmt: skip
def test_every_name_that_becomes_a_folder_is_checked_alike(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "thesis").mkdir(parents=True)
    job, *flags = command.split()
    main = importlib.import_module(f"volo.cli.{job}").main
    assert exit_code(main, [*flags, name, "--dataset", "shapes", "--fresh"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {flags[-1]} must ") and len(said) < 400
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs", "thesis"]
