"""Every remedy that a refusal names is one: the command that follows it is accepted."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import volo.settings
from tests.training.runs import small_run, train
from volo.cli import tune
from volo.cli.parse import parse_settings
from volo.cli.tune import WITHOUT, parse_sweep
from volo.errors import InputError
from volo.runs.folder import CONFIG
from volo.tuning.options import SweepOptions

ROWS = yaml.safe_load(Path(__file__).with_name("remedies.yaml").read_text())
REMEDIES = [(refused, row["says"], row["then"]) for refused, row in ROWS.items()]


def parsed(command: str):
    return parse_settings(shlex.split(command), prog="train", description="")


@pytest.mark.parametrize(("refused", "said", "remedies"), REMEDIES, ids=[refused for refused, _, _ in REMEDIES])
def test_a_command_that_does_what_a_refusal_says_is_accepted(refused, said, remedies):
    with pytest.raises(InputError) as error:
        parsed(refused)
    assert said in str(error.value)
    for remedy in remedies:
        assert parsed(remedy) is not None


def test_every_flag_that_a_refusal_of_the_settings_names_is_a_flag(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--help-all"], prog="train", description="")
    known = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    named = {flag for _, said, _ in REMEDIES for flag in re.findall(r"--[a-z][a-z0-9-]*", said)}
    assert named <= known


def test_every_refusal_of_the_settings_has_a_row_in_the_table():
    """The longest constant part of each message that a validator raises is in one that the rows provoke."""
    provoked = " ".join(_by_names(_message(refused)) for refused, _, _ in REMEDIES)
    sources = sorted(Path(volo.settings.__path__[0]).rglob("*.py"))
    assert [text for source in sources for text in _raised(source) if _by_names(text) not in provoked] == []


def _by_names(message: str) -> str:
    """With a setting's name in place of its flag: messages name what was typed."""
    return re.sub(r"--[a-z][a-z0-9-]*", lambda flag: flag[0][2:].replace("-", "_"), message)


def _message(command: str) -> str:
    with pytest.raises(InputError) as error:
        parsed(command)
    return str(error.value)


def _raised(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and ast.unparse(node.exc.func) == "ValueError"
        ):
            texts = [part.value for part in ast.walk(node.exc) if isinstance(part, ast.Constant)]
            yield max((text for text in texts if isinstance(text, str)), key=len)


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("--num-workers 2", "--workers-per-trial 2"),
        ("--run-name x", "--sweep-name x"),
        ("--max-steps 3", "--epochs 3"),
        ("--seeds 1 2", "--seed 1"),
        ("--resume-path x", "--init-weights x"),
    ],
)
def test_what_a_sweep_has_in_place_of_a_flag_is_a_flag_of_it(flag, remedy):
    def swept(flags: str):
        argv = ["--space", "mix", *flags.split()]
        return parse_sweep(SweepOptions, argv, prog="tune", description=tune.__doc__, without=WITHOUT)

    with pytest.raises(InputError, match=f"use {remedy.split()[0]}"):
        swept(flag)
    assert swept(remedy)[0] is not None


def argv_in(said: str) -> list[str]:
    """The flags that a message tells to give, read as a shell does."""
    return shlex.split(re.search(r"--init-weights ('[^']*'|\S+)", said)[0].rstrip(";,."))


def test_another_setting_for_another_runs_checkpoint_is_refused_with_a_way_and_leaves_no_folder(tmp_path, folder):
    first = train(small_run(tmp_path / "a b", folder, optim=dict(max_steps=4)))
    branch = dict(run_name="branch", resume_path=str(first))
    settings = small_run(tmp_path, folder, optim=dict(lr=0.1), run=branch)
    with pytest.raises(InputError) as refused:
        train(settings)
    said = str(refused.value)
    assert f"got different ones for {first}:\n  optim.lr: 0.002 before, 0.1 now\n" in said
    assert "--fresh" not in said
    assert argv_in(said) == ["--init-weights", str(first)]
    assert not settings.run_dir.exists()
    follow = small_run(tmp_path, folder, optim=dict(lr=0.1, init_weights=argv_in(said)[1]), run=dict(run_name="branch"))
    assert follow.optim.init_weights == str(first)
    old = small_run(tmp_path, folder, run=branch, optim=dict(max_steps=5))
    assert (train(old) / CONFIG).exists(), "the old settings, which the message names first"


def test_more_training_than_a_finished_run_had_is_refused_with_the_way_that_there_is(tmp_path, folder, capsys):
    run_dir = train(small_run(tmp_path / "a #b", folder, optim=dict(epochs=1)))
    with pytest.raises(InputError) as longer:
        train(small_run(tmp_path / "a #b", folder, optim=dict(epochs=2)))
    branch = small_run(tmp_path, folder, optim=dict(epochs=1), run=dict(run_name="more", resume_path=str(run_dir)))
    with pytest.raises(InputError) as other_name:
        train(branch)
    assert not branch.run_dir.exists()
    capsys.readouterr()
    train(small_run(tmp_path / "a #b", folder, optim=dict(epochs=1)))
    same_again = capsys.readouterr().out
    for said in (str(longer.value), str(other_name.value), same_again):
        assert argv_in(said) == ["--init-weights", str(run_dir)]
    assert "another --run-name" in str(longer.value)
    assert "instead of --resume-path" in str(other_name.value)


def test_a_checkpoint_at_the_step_to_stop_at_says_which_flag_goes_further(tmp_path, folder):
    first = train(small_run(tmp_path, folder, optim=dict(max_steps=2)))
    branch = dict(run_name="branch", resume_path=str(first))
    with pytest.raises(InputError, match="raise --max-steps above 2"):
        train(small_run(tmp_path, folder, optim=dict(max_steps=2), run=branch))
    assert train(small_run(tmp_path, folder, optim=dict(max_steps=3), run=branch)).name == "branch"


@pytest.mark.parametrize("run", [dict(resume_path="nowhere"), dict(resume_path="images")])
def test_a_refused_start_leaves_no_folder(tmp_path, folder, run):
    settings = small_run(tmp_path, folder, run=dict(resume_path=str(tmp_path / run["resume_path"])))
    with pytest.raises(InputError):
        train(settings)
    assert not settings.run_dir.exists()
