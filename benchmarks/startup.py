"""How soon the command line answers: whole processes, help and a refused setting, beside `python -c pass`.

python -m benchmarks.startup
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "jobs.train --help": ["-m", "jobs.train", "--help"],
    "jobs.train --epochs 0 (refused)": ["-m", "jobs.train", "--epochs", "0"],
    "jobs.train --print-config": ["-m", "jobs.train", "--print-config"],
    "jobs.analyze --help": ["-m", "jobs.analyze", "--help"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    flags = parser.parse_args()
    for arguments in COMMANDS.values():
        seconds(arguments)
    rounds = [{name: seconds(arguments) for name, arguments in COMMANDS.items()} for _ in range(flags.rounds)]
    print(f"Python {sys.version.split()[0]}, n = {flags.rounds}\n\n| command | median | range |\n|---|---|---|")
    for name in COMMANDS:
        found = [one[name] for one in rounds]
        print(f"| {name} | {statistics.median(found):.2f} s | {min(found):.2f} to {max(found):.2f} s |")


if __name__ == "__main__":
    main()
