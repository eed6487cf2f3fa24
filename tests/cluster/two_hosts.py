"""Two hosts that share a network but no folder train together, with data and results on an S3 server, while a host, the
driver and the server fail.

    bash tests/cluster/two_hosts.sh

Each host is started as deploy/on-premises.md says. What happens is printed; an AssertionError says what did not hold.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.namespaces import HOME, Host, Network, network, why_not
from tests.cluster.processes import Training, started
from tests.cluster.test_kills import two_ranks
from tests.faults.tools.forked import Command
from tests.faults.tools.runs import assert_same, begun_at, draw_images
from tests.limits import LIMIT_S
from tests.storage.server import KEYS
from volo.data.packed.packing import pack

EPOCHS, STEPS_OF_EPOCH, EVERY = 3, 16, 5  # steps between checkpoints
GONE_S = 30.0
SERVES = r"(?m)^(http\S+) (s3\S+)\n"
TOKEN = f"{HOME}/.ray/auth_token"
CONFIG, UNDISTURBED, PHOTOS, FETCHED = "/tmp/run.json", "/tmp/undisturbed", "/tmp/photos", "/tmp/fetched"
UPLOAD = """
import sys
from pathlib import Path
from volo.storage.bucket import Bucket
for path in Path(sys.argv[1]).iterdir():
    Bucket(sys.argv[2]).write(path.name, path)
"""
_begun = time.monotonic()


def say(what: str) -> None:
    print(f"[{time.monotonic() - _begun:4.0f} s] {what}", flush=True)


@dataclass(frozen=True)
class Storage:
    """An S3 server on a host of its own. What has changed there is in `log`."""

    host: Host
    log: Path
    endpoint: str
    bucket: str

    @property
    def env(self) -> dict[str, str]:
        """By which processes on a host find the server, and have Ray use the host's token."""
        return KEYS | {"AWS_ENDPOINT_URL": self.endpoint, "RAY_AUTH_MODE": "token"}

    def saved_step(self) -> int:
        """Of the newest checkpoint that has been made there; 0 before the first."""
        found = re.findall(r"^PUT \S*/step_(\d+)/manifest\.json", self.log.read_text(), re.MULTILINE)
        return max(map(int, found), default=0)


@contextlib.contextmanager
def serving(host: Host, log: Path) -> Iterator[Storage]:
    command = [sys.executable, "-m", "tests.storage.server", host.address]
    with open(log, "w") as file:
        process = host.popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, text=True)
    try:
        serves = Training(process, log, log)
        serves.until(lambda: bool(re.search(SERVES, log.read_text())), "the server's endpoint")
        yield Storage(host, log, *re.search(SERVES, log.read_text()).groups())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


@dataclass(frozen=True)
class Pair:
    """The two hosts: Ray's head and the other one, what is trained, and where it is kept."""

    lan: Network
    one: Host
    two: Host
    storage: Storage
    command: Command
    folder: Path

    @property
    def runs(self) -> str:
        return f"{self.storage.bucket}/runs"

    @property
    def home(self) -> str:
        return f"{self.runs}/{self.command.settings.run.run_name}"

    def config(self) -> dict:
        """The command's settings, with data and results in the bucket."""
        values = self.command.settings.to_dict()
        values["run"] |= {"output_dir": self.runs, "checkpoint_every": EVERY, "num_workers": 2}
        values["data"] |= {"data_dir": f"{self.storage.bucket}/photos"}
        return values

    def run(self, host: Host, *command: str) -> str:
        """Runs a command of the environment's on a host, and returns what it printed. It must end with 0."""
        ended = host.run(list(command), env=self.storage.env)
        assert ended.returncode == 0, f"{' '.join(command)} on {host.name}: {ended.stdout}"
        return ended.stdout

    def volo(self, host: Host, *words: str) -> str:
        said = self.run(host, sys.executable, "-m", "volo", *words)
        say(f"  {host.name}$ volo {' '.join(words)}: {said.strip().splitlines()[-1]}")
        return said

    def start_ray(self, host: Host) -> None:
        """Starts the head or the other host, the token and the settings' file having been copied there.

        Each has a core, so that its worker computes with one thread, as each rank of the undisturbed run does: the last
        bits of a sum depend on that.
        """
        host.file(CONFIG).write_text(json.dumps(self.config()))
        if host is self.one:
            make = 'umask 077 && ray get-auth-token --generate && exec ray start --head "$@"'
            where = [f"--node-ip-address={host.address}", "--port=6379", "--dashboard-host=127.0.0.1"]
        else:
            token = self.one.file(TOKEN).read_text()
            host.file(TOKEN).parent.mkdir(mode=0o700)
            with open(host.file(TOKEN), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(token)
            make, where = 'exec ray start "$@"', [f"--address={self.address}"]
        small = ["--num-cpus=1", "--num-gpus=0", f"--object-store-memory={150 * 1024**2}", "--disable-usage-stats"]
        core = str(sorted(os.sched_getaffinity(0))[0 if host is self.one else -1])
        self.run(host, "taskset", "--cpu-list", core, "bash", "-c", make, "ray", *where, *small)

    @property
    def address(self) -> str:
        return f"{self.one.address}:6379"

    def driver(self, host: Host) -> contextlib.AbstractContextManager[Training]:
        """The same command, whichever host it is started on."""
        words = ["train", "--config", CONFIG, "--address", self.address]
        say(f"{host.name}$ volo {' '.join(words)}")
        command = host.command([sys.executable, "-m", "volo", *words])
        return started(command, host.env | self.storage.env, self.folder / f"driver-on-{host.name}")


def play(folder: Path) -> None:
    """Everything, in a folder that nobody else uses.

    Raises:
        AssertionError: what did not hold.
    """
    images = draw_images(folder / "data")
    say("two processes of this machine train undisturbed: the weights that the hosts must arrive at")
    undisturbed = two_ranks(folder / "undisturbed", images, optim=dict(epochs=EPOCHS))
    undisturbed.finish(num_ranks=2)
    pack(images, folder / "packed", 20_000)
    with network() as lan, contextlib.ExitStack() as servers:
        one, two, third = (lan.host(name) for name in ("one", "two", "storage"))
        say(f"hosts: {', '.join(f'{host.name} at {host.address}' for host in lan.hosts)}; no folder is shared")
        storage = servers.enter_context(serving(third, folder / "storage.txt"))
        there = two_ranks(folder / "there", images, optim=dict(epochs=EPOCHS))
        pair = Pair(lan, one, two, storage, there, folder)
        say(f"an S3 server answers at {storage.endpoint}; {one.name} uploads the images to {storage.bucket}/photos")
        shutil.copytree(folder / "packed", one.file("/tmp/packed"))
        pair.run(one, sys.executable, "-c", UPLOAD, "/tmp/packed", f"{storage.bucket}/photos")
        pair.run(one, "rm", "-r", "/tmp/packed")
        say(f"Ray starts: the head on {one.name}, a second node on {two.name}, one core each")
        pair.start_ray(one)
        pair.start_ray(two)
        train_disturbed(pair)
        read_from_both(pair, images, undisturbed.run_dir)


def train_disturbed(pair: Pair) -> None:
    one, two, storage = pair.one, pair.two, pair.storage
    with pair.driver(one) as training:
        training.until(lambda: storage.saved_step() >= 2 * EVERY, f"a checkpoint of step {2 * EVERY}")
        say(f"{two.name} loses power after the checkpoint of step {storage.saved_step()}, {STEPS_OF_EPOCH} an epoch")
        two.kill()
        say(f"{two.name} is switched on again, with empty folders, and joins the cluster")
        two.start()
        pair.start_ray(two)
        training.until(lambda: "resuming at step" in training.output.read_text(), "a new start")
        resumed = begun_at(training.output.read_text())
        say(f"the training has resumed at step {resumed}")
        assert resumed >= 2 * EVERY and resumed % STEPS_OF_EPOCH, "in mid-epoch, from the newest checkpoint"
        training.until(lambda: storage.saved_step() > resumed, "a checkpoint after that")
        step = storage.saved_step()
        say(f"the driver on {one.name} is killed after the checkpoint of step {step}")
        training.process.kill()
        training.process.wait()
    say("the same command is started on the other host")
    with pair.driver(two) as training:
        training.until(lambda: "resuming at step" in training.output.read_text(), "a start")
        resumed = begun_at(training.output.read_text())
        say(f"the training has resumed at step {resumed}")
        assert resumed >= step
        training.until(lambda: storage.saved_step() > resumed, "a checkpoint after that")
        say(f"the server is cut off for {GONE_S:.0f} s after the checkpoint of step {storage.saved_step()}")
        pair.lan.unplug(storage.host)
        with contextlib.suppress(subprocess.TimeoutExpired):
            training.process.wait(GONE_S)
        assert training.process.poll() is None, training.output.read_text()
        pair.lan.replug(storage.host)
        say("the server is back")
        assert training.process.wait(2 * LIMIT_S) == 0, training.output.read_text()
        say(f"the training has ended with exit code 0 after step {storage.saved_step()}")


def read_from_both(pair: Pair, images: Path, undisturbed: Path) -> None:
    found = []
    for host in (pair.one, pair.two):
        shutil.copytree(images / "test", host.file(PHOTOS))
        shutil.copytree(undisturbed, host.file(UNDISTURBED))
        found.append(read_from(pair, host))
        assert_same(host.file(f"{FETCHED}/{pair.command.settings.run.run_name}"), undisturbed)
    assert found[0] == found[1], "metrics, list of runs and predictions are those of the other host"
    say("the weights are equal, bit for bit, and so are losses, metrics and predictions")


def read_from(pair: Pair, host: Host) -> dict[str, object]:
    """What the commands that read a run say of it on a host, which has its caches alone."""
    here = ["--num-workers", "0"]
    listed = pair.volo(host, "runs", "--output-dir", pair.runs)
    pair.volo(host, "analyze", "--checkpoint", pair.home, "--fresh", "--no-show", *here)
    pair.volo(host, "compare", pair.home, UNDISTURBED, "--output-dir", "/tmp/compared")
    table = "/tmp/predictions.csv"
    pair.volo(host, "predict", "--checkpoint", f"{pair.home}/last", "--input", PHOTOS, "--output", table, *here)
    pair.volo(host, "runs", "--fetch", pair.home, "--output-dir", FETCHED)
    analysis = host.file(f"{FETCHED}/{pair.command.settings.run.run_name}/analysis")
    return {
        "listed": listed.splitlines()[-1].split()[:2],
        "metrics": json.loads((analysis / "eval_metrics.json").read_text()),
        "predictions": host.file(table).read_text(),
    }


def main() -> None:
    if reason := why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VOLO_CACHE_DIR"] = f"{folder}/cache"
        play(Path(folder))


if __name__ == "__main__":
    main()
