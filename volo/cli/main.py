"""`volo COMMAND`: finds the command, loads its module alone, runs it. Help and version answer without loading any."""

import difflib
import sys
from collections.abc import Sequence

from volo import __version__
from volo.errors import ExitCode, brief
from volo.streams import kept_running

# Each is a module with a `main(argv)`, in volo/cli or, of those in ABOUT, in volo/cli/about.
COMMANDS = {
    "train": "train a model: on Ray, in this process, or as one rank of torchrun",
    "tune": "search for better settings over a space",
    "analyze": "evaluate and explain a trained model: one report",
    "predict": "predict the classes of unlabeled images: a table",
    "pipeline": "train, then analyze; with --space search first",
    "submit": "run one of these as a job on a cluster",
    "pack": "pack an image folder into a few large files",
    "export": "write a model as ONNX or as a program of torch.export",
    "compare": "compare two runs: settings, curves, weights",
    "runs": "list the runs under a folder",
    "doctor": "check this machine and a cluster before a training",
    "spot": "drain this machine's node of Ray when AWS takes the machine away",
    "recipes": "list the named experiments, and what to expect of each",
    "spaces": "list the search spaces, and what each one searches",
    "completion": "print what completes commands and flags in a shell",
}
ABOUT = {"recipes", "spaces", "completion"}
HELP = f"""\
usage: volo COMMAND [FLAGS]

VOLO image classifiers: train, tune and explain them on one machine or a Ray cluster.

{chr(10).join(f"  {name:<12}{summary}" for name, summary in COMMANDS.items())}

`volo COMMAND --help` lists a command's common flags, `--help-all` every flag; `volo --version` prints the version.
To complete commands and flags, put `eval "$(volo completion bash)"` into ~/.bashrc (zsh, fish: volo completion --help).

First steps: `volo pipeline --recipe quickstart` trains, evaluates and explains a small model; it downloads no data.
"""


def main() -> None:
    """Runs the command line and ends the process with an ExitCode."""
    with kept_running():
        _answer(sys.argv[1:])


def module_of(command: str) -> str:
    return f"volo.cli.about.{command}" if command in ABOUT else f"volo.cli.{command}"


def _answer(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "--help-all", "help"):
        print(HELP, end="")
    elif argv[0] == "--version":
        print(f"volo {__version__}")
    elif argv[0] in COMMANDS:
        _run(argv)
    else:
        print(f"error: {_unknown(argv[0])}", file=sys.stderr)
        sys.exit(ExitCode.WRONG_INPUT)


def _run(argv: Sequence[str]) -> None:
    from volo.cli.outcome import run_job

    run_job(module_of(argv[0]), argv[1:])


def _unknown(word: str) -> str:
    near = difflib.get_close_matches(word.lower(), COMMANDS, n=1)
    remedy = f"did you mean volo {near[0]}?" if near else "volo --help lists them"
    return f"the command must be one of {', '.join(COMMANDS)}, got {brief(word)}; {remedy}"
