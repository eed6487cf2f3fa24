"""The end of a process that may not be taken apart."""

import subprocess
import sys

from tests.cluster.conftest import ROOT

ENDING = (
    "import atexit, sys\n"
    "from volo.teardown import end_process, skip_teardown\n"
    "atexit.register(print, 'taken apart')\n"
    "print('said', end=' ')\n"
    "if 'skip' in sys.argv: skip_teardown()\n"
    "end_process(7)\n"
)


def ended(*flags: str) -> tuple[int, str]:
    found = subprocess.run([sys.executable, "-c", ENDING, *flags], cwd=ROOT, capture_output=True, text=True)
    return found.returncode, found.stdout


def test_a_process_ends_with_its_code_and_its_output_and_is_taken_apart_only_if_it_may_be():
    assert ended() == (7, "said taken apart\n")
    assert ended("skip") == (7, "said ")
