"""A command that is stopped ends with one line, also while it is still being imported."""

import signal
import subprocess
import sys

import pytest

STOPPED_IN_AN_IMPORT = """
import importlib.abc, os, sys

number = int(sys.argv.pop(1))

class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "volo.settings.config":
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Stop())
sys.argv[0] = "volo"
from volo.cli.main import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("command", ["train", "runs", "doctor"])
def test_a_command_that_is_stopped_while_it_is_imported_says_one_line(command, number):
    argv = [sys.executable, "-c", STOPPED_IN_AN_IMPORT, str(int(number)), command]
    ended = subprocess.run(argv, capture_output=True, text=True)
    assert ended.returncode == 128 + number, ended.stderr
    assert ended.stderr == f"interrupted by {number.name}; the same command resumes\n"
