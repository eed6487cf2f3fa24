"""Commands in a process that may take so much time and memory: what they exit with, and what they say."""

import contextlib
import io
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

GIB = 2**30
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ending:
    code: int
    said: str


def run_limited(
    commands: Sequence[Sequence[str]], *, cpu_s: int, memory: int, imports: Sequence[str] = ()
) -> list[Ending]:
    """The ending of each command, as in `train --epochs 3`. Fails if all of them together take more.

    Args:
        commands: To run one after another, in one process.
        cpu_s: Seconds of computation, once everything is imported.
        memory: Bytes of address space, beyond what the process has then.
        imports: Modules that the commands need besides their own.
    """
    given = json.dumps([list(map(list, commands)), cpu_s, memory, list(imports)])
    done = subprocess.run([sys.executable, "-m", __name__], input=given, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    return [Ending(**ending) for ending in json.loads(done.stdout.splitlines()[-1])]


def _main() -> None:
    commands, cpu_s, memory, imports = json.load(sys.stdin)
    for name in imports:
        import_module(name)
    mains = [import_module(f"volo.cli.{command[0]}").main for command in commands]
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_s + 1, resource.RLIM_INFINITY))
    size = _address_space() + memory
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    endings = [_ending(main, command[1:]) for main, command in zip(mains, commands, strict=True)]
    print(json.dumps(endings))


def _ending(main, argv: Sequence[str]) -> dict:
    from volo.cli.outcome import exit_code

    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        code = int(exit_code(main, argv))
    return {"code": code, "said": errors.getvalue()}


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _main()
