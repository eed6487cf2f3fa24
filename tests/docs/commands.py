"""What a line of the documents runs, and how far a test can go with it."""

import importlib
import re
from dataclasses import dataclass

import tyro

from tests.docs.pages import ROOT
from volo.cli.outcome import exit_code

# By name, the module of each: a file of volo/cli with a main that takes flags.
COMMANDS = {
    path.stem: ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "volo" / "cli").rglob("*.py")
    if "\ndef main(argv" in path.read_text()
}
TAKE_SETTINGS = {"train", "tune", "pipeline", "doctor"}  # these have --print-config
JOB = re.compile(r"jobs\.(\w+)")

# Programs of others. What they start of ours is found behind them; the rest of such a line says what holds it.
OTHERS = {
    ".": "activates the environment that make has made",
    "(umask": "Ray's own command, which makes a token",
    "bash": "the script is a file of the repository: test_links.py",
    "docker": "the image: tests/test_image.py",
    "exec": "the shell's own, in a script for Slurm; the command behind it is parsed",
    "export": "where a node has the data: tests/settings/test_place_here.py",
    "mkdir": "folders for docker to mount",
    "pip": "extras: tests/test_packaging.py",
    "ray": "a job's command is parsed; it is submitted in tests/cluster/test_launchers.py",
    "tensorboard": "TensorBoard's own command",
    "torchrun": "the module's flags are parsed; it is started in tests/cluster/test_launchers.py",
}


@dataclass(frozen=True)
class Command:
    """One of this project's commands with its flags; `behind` is the program that starts it, if another one does."""

    name: str
    argv: tuple[str, ...]
    behind: str | None = None


def command_in(words: list[str]) -> Command | None:
    """`volo train ...`, `python -m jobs.train ...` or `-m jobs.train ...`, alone or behind another program."""
    for number, word in enumerate(words):
        name, rest = None, ()
        if word == "volo" and number + 1 < len(words) and words[number + 1] in COMMANDS:
            name, rest = words[number + 1], words[number + 2 :]
        elif number and words[number - 1] == "-m" and (found := JOB.fullmatch(word)):
            name, rest = found[1], words[number + 1 :]
        if name is not None:
            starter = words[0] if words[0] not in ("volo", "python") else None
            return Command(name, tuple(rest), starter)
    return None


def parse(command: Command) -> None:
    """Gives the flags to the command's own parser, which refuses what it does not know or what contradicts. Nothing is
    trained, read or written."""
    module = importlib.import_module(COMMANDS[command.name])
    argv = list(command.argv)
    if command.name == "submit":
        place = argv.index("--")
        tyro.cli(module.Flags, args=argv[:place], config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff))
        parse(Command(argv[place + 1], tuple(argv[place + 2 :])))
    elif command.name in TAKE_SETTINGS:
        assert exit_code(module.main, [*argv, "--print-config"]) == 0
    elif argv:
        config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
        flags = tyro.cli(module.Flags, args=argv, config=config)
        if hasattr(flags, "check"):
            flags.check()
