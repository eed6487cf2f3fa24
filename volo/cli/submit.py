"""Run a command as a job on a Ray cluster, as if it ran here.

    volo submit --address http://10.0.0.1:8265 -- train --recipe small --output-dir /shared/outputs

This package goes along, and the files of --config and --space; all other paths are the cluster's. The log is followed,
and the exit code is the command's own. Ctrl-C asks whether to stop the job, which saves first, or to leave it running.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence

from volo.cli.parse import parse_flags, program
from volo.errors import InputError, brief
from volo.settings.paths import folder_to_write

COMMANDS = ("train", "tune", "pipeline", "analyze", "predict", "doctor")
ADDRESS = "RAY_API_SERVER_ADDRESS"  # as `ray job` takes it
DEFAULT = "http://127.0.0.1:8265"


@dataclasses.dataclass(frozen=True)
class Flags:
    address: str | None = None
    """The cluster's dashboard, http://HOST:PORT. Default: $RAY_API_SERVER_ADDRESS, or port 8265 of this machine."""
    name: str | None = None
    """The job's name; a second job of the same name is refused. Default: one that Ray makes."""
    leave: bool = False
    """Return as soon as the job is submitted."""
    fetch_to: str = "./outputs"
    """Folder for the job's report, if it is not on a disk that this machine sees."""


def main(argv: Sequence[str]) -> None:
    own, separator, words = _divided(argv)
    flags = parse_flags(Flags, own, prog=program("submit"), description=__doc__)
    folder = folder_to_write(flags.fetch_to, "--fetch-to")
    if not separator or not words or words[0] not in COMMANDS:
        raise InputError(
            f"-- must be followed by one of {', '.join(COMMANDS)} and its flags, got {brief(' '.join(words))}; as in "
            "volo submit -- train --recipe nano --output-dir /shared/outputs"
        )
    address = flags.address or os.environ.get(ADDRESS) or DEFAULT
    if not address.startswith(("http://", "https://")):
        raise InputError(f"--address must be http://HOST:PORT, the dashboard's, got {brief(address)}; use port 8265")
    from volo.cluster.submission import Submission

    job = Submission(address, words, flags.name)
    print(f"job {job.name}; {job.how_to_find()}", flush=True)
    if flags.leave:
        return
    code = job.follow()
    if code == 0 and (report := job.fetch_report(folder)):
        print(f"report here: {report}", flush=True)
    sys.exit(code)


def _divided(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """What stands before `--`, whether there is one, and what stands behind."""
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], place < len(words), words[place + 1 :]
