"""deploy/slurm.sbatch on two hosts: the script as it is, with what it marks CHANGE changed.

In place of Slurm, these tests run on both hosts what the script gives to `srun`, and signal the script.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.cluster.namespaces import Host, network, why_not
from tests.cluster.processes import Training
from tests.conftest import draw_folder
from tests.storage.server import KEYS
from tests.training.runs import small_run
from volo.errors import ExitCode

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason := why_not()), reason=reason or ""),
]

SCRIPT, ASKED, ANSWER, BATCH = "/tmp/slurm.sbatch", "/tmp/asked", "/tmp/answer", "/tmp/batch"
CONFIG, PHOTOS = "/tmp/config.json", "/tmp/photos"
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": "0"}
SOON = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # a node ends so long after its head; by default a minute
# Tells this test its words and environment, and ends with the code that it is told.
SRUN = f"""#!{sys.executable}
import json, os, sys
with open("{ASKED}.new", "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
os.rename("{ASKED}.new", "{ASKED}")
with open("{ANSWER}") as pipe:
    sys.exit(int(pipe.read()))
"""


@dataclass(frozen=True)
class Nodes:
    """The nodes of an allocation, the first of which runs the script, and where runs are kept."""

    one: Host
    two: Host
    bucket: str
    env: dict[str, str]
    folder: Path

    @contextlib.contextmanager
    def job(self, name: str, epochs: int, data_dir: str = PHOTOS) -> Iterator[Training]:
        """The script as Slurm starts it, and its `srun` on both nodes. `process` is the script's; it ends with the
        block, when the tasks have ended."""
        values = small_run(self.folder, self.folder, optim=dict(epochs=epochs, use_amp=False)).to_dict()
        values["run"] |= {"run_name": name, "num_workers": None, "checkpoint_every": 10_000}
        self.one.file(CONFIG).write_text(json.dumps(values))
        output = self.folder / f"{name}.txt"
        with open(output, "w") as file, contextlib.ExitStack() as tasks:
            script = tasks.enter_context(self._batch(file, data_dir))
            job = Training(script, output, self.folder)
            job.until(self.one.file(ASKED).exists, "srun")
            words, env = json.loads(self.one.file(ASKED).read_text())
            self.one.file(ASKED).unlink()
            place = words.index("ray")
            assert words[:place] == ["--cpus-per-task=1"]
            own = {name: value for name, value in env.items() if name.startswith(("RAY_", "SLURM_", "AWS_"))}
            started = [
                tasks.enter_context(ended(host.popen(words[place:], env=own | added, stdout=file, stderr=file)))
                for host, added in ((self.one, {}), (self.two, SOON))
            ]
            yield job
            answer = max(process.wait(300) for process in started)
            self.one.file(ANSWER).write_text(str(answer))
            script.wait(60)

    @contextlib.contextmanager
    def _batch(self, file, data_dir: str) -> Iterator[subprocess.Popen]:
        text = (ROOT / "deploy" / "slurm.sbatch").read_text()
        text = re.sub(r"^source .*$", "", text, flags=re.MULTILINE)
        text = re.sub(r"^RUN_DIR=\S+", f"RUN_DIR={self.bucket}/runs", text, flags=re.MULTILINE)
        text = re.sub(r"^DATA_DIR=\S+", f"DATA_DIR={data_dir}", text, flags=re.MULTILINE)
        given = f"volo train --config {CONFIG} --num-workers 2 --device cpu"
        text = text.replace("volo train --recipe small --num-workers 8 --device cuda", given)
        assert text.count(given) == 1
        self.one.file(SCRIPT).write_text(text)
        command = ["bash", "-c", f"echo $$ > {BATCH}; exec bash {SCRIPT}"]
        env = self.env | SLURM | {"PATH": f"/tmp/bin:{self.one.env['PATH']}"}
        with ended(self.one.popen(command, env=env, stdout=file, stderr=file)) as process:
            yield process

    def signal(self) -> None:
        """As `#SBATCH --signal=B:TERM@180` does, to the script alone."""
        pid = self.one.file(BATCH).read_text().strip()
        assert self.one.run(["kill", "-TERM", pid]).returncode == 0


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Ends it with the block."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("slurm")
    with network() as lan, contextlib.ExitStack() as ending:
        one, two, storage = (lan.host(name) for name in ("one", "two", "storage"))
        serve = [sys.executable, "-m", "tests.storage.server", storage.address]
        log = ending.enter_context(open(folder / "storage.txt", "w"))
        server = ending.enter_context(ended(storage.popen(serve, stdin=subprocess.PIPE, stdout=log)))
        Training(server, Path(log.name), folder).until(lambda: "\n" in Path(log.name).read_text(), "the server's place")
        endpoint, bucket = Path(log.name).read_text().splitlines()[0].split()
        images = draw_folder(folder / "images", {"train": {"cat": 40, "dog": 40}})
        for host in (one, two):
            shutil.copytree(images, host.file(PHOTOS))
        one.file("/tmp/bin").mkdir()
        one.file("/tmp/bin/srun").write_text(SRUN)
        one.file("/tmp/bin/srun").chmod(0o755)
        os.mkfifo(one.file(ANSWER))
        yield Nodes(one, two, bucket, KEYS | {"AWS_ENDPOINT_URL": endpoint}, folder)


def test_a_training_on_the_nodes_of_an_allocation_ends_with_code_0_and_leaves_no_ray_behind(nodes):
    with nodes.job("whole", epochs=1) as job:
        job.until(lambda: "; 2 workers" in job.output.read_text(), "two workers")
    said = job.output.read_text()
    assert job.process.returncode == ExitCode.DONE, said
    assert "On head node" in said and "On worker node" in said
    for host in (nodes.one, nodes.two):
        assert "raylet" not in host.run(["ps", "-e"]).stdout


def test_the_code_of_a_job_that_fails_is_that_of_the_script(nodes):
    with nodes.job("wrong", epochs=1, data_dir="hdfs://photos") as job:
        job.until(lambda: "error: " in job.output.read_text(), "a refusal")
    assert job.process.returncode == ExitCode.WRONG_INPUT, job.output.read_text()


def test_a_signal_ahead_of_the_time_limit_has_the_run_save_and_the_same_script_resumes_it(nodes):
    with nodes.job("limited", epochs=2000) as job:
        job.until(lambda: "; 2 workers" in job.output.read_text(), "two workers")
        nodes.signal()
    said = job.output.read_text()
    assert job.process.returncode == ExitCode.TERMINATED, said
    assert "stopped by SIGTERM after saving" in said
    with nodes.job("limited", epochs=2000) as job:
        job.until(lambda: "resuming at step" in job.output.read_text(), "a resumed run")
        nodes.signal()
    assert job.process.returncode == ExitCode.TERMINATED, job.output.read_text()
