"""A command run as a job on a cluster, as if it ran here: its log, its exit code, and its report at the end."""

import asyncio
import base64
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

import volo
from volo.console import format_bytes
from volo.errors import ExitCode, InputError
from volo.files import replace_synced
from volo.log import LOGGER
from volo.settings.ray_job import STOP_WAIT
from volo.temporary import own_folder

CARRIED = ("--config", "--space")  # flags whose files go along
SPACES = "tune_spaces"
TIME_TO_SAVE_S = "120"
LOOK_S = 0.2
REPORT = re.compile(r"^report: (/.+)$", re.MULTILINE)
OPEN, CLOSE = "<<volo:", ":volo>>"
SENT = "import base64; print('{open}' + base64.b64encode(open({path!r}, 'rb').read()).decode() + '{close}')"


class Submission:
    """A job that has been given to a cluster.

    Args:
        address: The cluster's dashboard, http://HOST:PORT.
        words: The command of ours with its flags, as in `["train", "--recipe", "nano"]`. Files of CARRIED flags go
            along; all other paths are the cluster's.
        name: The job's; None for one that Ray makes.

    Raises:
        InputError: no dashboard answers there, or it refuses the job.
    """

    def __init__(self, address: str, words: Sequence[str], name: str | None = None):
        self.address = address
        try:
            self._client = JobSubmissionClient(address)
            with tempfile.TemporaryDirectory(dir=own_folder("volo-job")) as folder:
                carried = _prepared(Path(folder), words)
                self.name = self._client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "volo", *carried]),
                    submission_id=name,
                    runtime_env={"working_dir": folder, "env_vars": {STOP_WAIT: TIME_TO_SAVE_S}},
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--address must be the dashboard of a cluster that takes jobs, got {address} ({_first_line(error)}); "
                "it is at port 8265 of the head by default"
            ) from None

    def follow(self) -> int:
        """Prints the job's log until it ends, and returns its exit code.

        An interrupt asks whether to stop the job or to leave it running, and says how to find it again.
        """
        while True:
            try:
                asyncio.run(print_log(self._client, self.name))
                return self._exit_code()
            except KeyboardInterrupt:
                if not self._is_to_stop():
                    print(f"the job goes on; {self.how_to_find()}", flush=True)
                    raise
                print("stopping: it saves first", flush=True)
                self._client.stop_job(self.name)

    def how_to_find(self) -> str:
        given = f"--address {self.address}"
        return f"to follow it: ray job logs {given} --follow {self.name}; to stop it: ray job stop {given} {self.name}"

    def fetch_report(self, folder: Path) -> Path | None:
        """The report that the job's log names, here: where it says if that is a shared disk, or copied into a folder.
        None if there is none, or it cannot be had."""
        named = REPORT.findall(self._client.get_job_logs(self.name))
        if not named:
            return None
        if Path(named[-1]).is_file():
            return Path(named[-1])
        content = self._sent(named[-1])
        if content is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{self.name}-report.html"
        replace_synced(target, content)
        return target

    def _exit_code(self) -> int:
        info: Any = self._ended(self.name)
        if info.driver_exit_code is not None:
            code = int(info.driver_exit_code)
            return code if code >= 0 else 128 - code
        if info.status == JobStatus.SUCCEEDED:
            return ExitCode.DONE
        print(f"the job ended as {info.status}: {info.message}", file=sys.stderr)
        return ExitCode.WORK_FAILED

    def _ended(self, name: str) -> Any:
        """Its log ends a moment before."""
        while not (info := self._client.get_job_info(name)).status.is_terminal():
            time.sleep(LOOK_S)
        return info

    def _is_to_stop(self) -> bool:
        if not sys.stdin.isatty():
            return False
        try:
            return input(f"\nstop the job {self.name}, or leave it running? [stop/LEAVE] ").strip().lower() == "stop"
        except (EOFError, KeyboardInterrupt):
            return False

    def _sent(self, path: str) -> bytes | None:
        """A file of the cluster, through the log of a small job that reads it."""
        code = SENT.format(open=OPEN, path=path, close=CLOSE)
        job = self._client.submit_job(entrypoint=shlex.join(["python", "-c", code]))
        self._ended(job)
        rest = self._client.get_job_logs(job).rpartition(OPEN)[2]  # before, the log may repeat the command
        content, found, _ = rest.partition(CLOSE)
        if not found:
            LOGGER.warning("the report could not be fetched; it is %s on the cluster", path)
        return base64.b64decode(content) if found else None


async def print_log(client: JobSubmissionClient, name: str) -> None:
    """Prints a job's log until it ends."""
    async for lines in client.tail_job_logs(name):
        sys.stdout.write(lines)
        sys.stdout.flush()


def _prepared(folder: Path, words: Sequence[str]) -> list[str]:
    """Copies this package and the files of CARRIED flags into a folder; returns the command that finds them there."""
    package = Path(volo.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(package, folder / package.name, ignore=ignored)
    if (package.parent / SPACES).is_dir():
        shutil.copytree(package.parent / SPACES, folder / SPACES, ignore=ignored)
    carried = list(words)
    for number, word in enumerate(carried):
        flag, has_value, value = word.partition("=")
        before = carried[number - 1] if number else ""
        path = value if has_value and flag in CARRIED else word if before in CARRIED else ""
        if path and Path(path).is_file():
            name = f"{number}-{Path(path).name}"
            shutil.copyfile(path, folder / name)
            carried[number] = f"{flag}={name}" if has_value and flag in CARRIED else name
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    print(f"uploading {format_bytes(sum(sizes))} in {len(sizes)} files", flush=True)
    return carried


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
