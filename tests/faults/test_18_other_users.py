"""Row 18: other users of this machine, and other machines, can neither reach nor replace nor read anything of a run."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.cluster.conftest import ROOT, end_session
from tests.faults.test_09_control_plane import bare_environment
from tests.faults.tools.forked import FORKS, ended
from tests.faults.tools.listeners import beyond_loopback, commands_of, listening
from tests.faults.tools.processes import until, written
from tests.limits import LIMIT_S
from tests.ports import free_ports
from tests.training.runs import losses, small_run
from volo.cluster import folder as place
from volo.cluster.folder import MAX_BASE, MAX_TMPDIR, PREFIX, VARIABLE, session_folder
from volo.errors import InputError
from volo.training.world import INTERFACE_VARIABLES, joined_world, listen_on_loopback, open_store, torchrun_world

HOLD = (
    "import sys\n"
    "from volo.cluster.folder import session_folder\n"
    "with session_folder() as folder:\n"
    "    print(folder, flush=True)\n"
    "    sys.stdin.read()\n"
)
CPU = torch.device("cpu")
OTHER_USER = 4242  # has no entry in passwd
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def base(monkeypatch) -> Iterator[Path]:
    """A place with a path short enough for sockets, and the only one there is."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    made = Path("/tmp", f"v{secrets.token_hex(2)}")
    made.mkdir(mode=0o700)
    monkeypatch.setattr(place, "SHARED_BASES", (str(made),))
    yield made
    shutil.rmtree(made)


def test_the_folder_of_a_cluster_is_its_users_alone_and_goes_with_the_cluster(base):
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt), session_folder() as folder:
        assert folder.parent == base
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.environ[VARIABLE] == str(folder)
        (folder / "ray" / "session").mkdir(parents=True)
        raise KeyboardInterrupt
    assert list(base.iterdir()) == []
    assert dict(os.environ) == before


def test_the_next_command_removes_the_folder_of_a_killed_one_and_leaves_those_in_use(base):
    env = os.environ | {VARIABLE: str(base)}
    command = [sys.executable, "-c", HOLD]
    held = [subprocess.Popen(command, cwd=ROOT, env=env, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    killed, living = (Path(process.stdout.readline().strip()) for process in held)
    (killed / "ray").mkdir()
    held[0].kill()
    held[0].wait()
    with session_folder() as folder:
        assert set(base.iterdir()) == {living, folder}
    held[1].communicate()
    assert list(base.iterdir()) == []


@as_root
def test_links_and_folders_of_others_are_left_alone_whatever_their_names(base):
    theirs, linked, target = base / f"{PREFIX}theirs", base / f"{PREFIX}link", base / "target"
    theirs.mkdir()
    os.chown(theirs, OTHER_USER, OTHER_USER)
    target.mkdir()
    linked.symlink_to(target)
    with session_folder():
        pass
    assert set(base.iterdir()) == {theirs, linked, target}


def long(base: Path) -> Path:
    (found := base / ("n" * MAX_BASE)).mkdir()
    return found


def others(base: Path) -> Path:
    (found := base / "o").mkdir()
    os.chown(found, OTHER_USER, OTHER_USER)
    return found


def writable(base: Path) -> Path:
    (found := base / "w").mkdir()
    found.chmod(0o777)
    return found


def file(base: Path) -> Path:
    (found := base / "f").touch()
    return found


BAD_BASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a long path, as a Slurm job's": (long, f"longer than {MAX_BASE} bytes"),
    "a missing folder": (lambda base: base / "m", "No such file or directory"),
    "a file": (file, "Not a directory"),
    "a folder where others may rename": (writable, "others may rename what is in it"),
    "another user's folder": (others, "belongs to another user"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[as_root] * (kind == "another user's folder")) for kind in BAD_BASES]
)
@pytest.mark.parametrize("variable", [VARIABLE, "TMPDIR"])
def test_where_the_chosen_place_cannot_hold_a_cluster_another_does_or_the_message_says_what_to_set(
    base, monkeypatch, caplog, kind, variable
):
    make, reason = BAD_BASES[kind]
    monkeypatch.setenv(variable, str(bad := make(base)))
    with session_folder() as folder:
        assert folder.parent == base
    told = [f"{VARIABLE}={bad} is not used ({reason}); using {base}"] if variable == VARIABLE else []
    assert caplog.messages == told
    monkeypatch.setattr(place, "SHARED_BASES", ())
    with pytest.raises(InputError) as refused, session_folder():
        pass
    assert f"got {bad} ({reason}); set {VARIABLE} to a folder of yours" in str(refused.value)


def test_a_temporary_folder_too_long_for_any_socket_is_not_passed_on_to_rays_processes(base, monkeypatch):
    monkeypatch.setenv("TMPDIR", long_enough := "/t" * (MAX_TMPDIR // 2))
    with session_folder():
        assert os.environ["TMPDIR"] == long_enough
    monkeypatch.setenv("TMPDIR", too_long := long_enough + "/tt")
    with session_folder():
        assert os.environ["TMPDIR"] == str(base)
    assert os.environ["TMPDIR"] == too_long


def _meet(rank: int, ports: Queue, found: Queue) -> None:
    listen_on_loopback()
    store = open_store("127.0.0.1") if rank == 0 else None
    if store:
        ports.put(store.port)
    world = joined_world(rank, 2, rank, 2, CPU, store or dist.TCPStore("127.0.0.1", ports.get(timeout=LIMIT_S)))
    found.put((sum(map(len, listening(os.getpid()).values())), beyond_loopback(os.getpid())))
    world.wait()
    dist.destroy_process_group()


def test_ranks_on_one_machine_meet_and_talk_on_loopback_alone():
    ports, found = FORKS.Queue(), FORKS.Queue()
    ranks = [FORKS.Process(target=_meet, args=(rank, ports, found)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    seen = [found.get(timeout=LIMIT_S) for _ in ranks]
    assert [ended(rank) for rank in ranks] == [0, 0]
    assert [beyond for _, beyond in seen] == [[], []]
    assert sum(num for num, _ in seen) >= 3, "the store, and each rank's own port, were not seen"


def _meet_under_torchrun(port: int, told: Queue) -> None:
    for name in INTERFACE_VARIABLES:
        os.environ.pop(name, None)
    world = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()}, MASTER_ADDR="127.0.0.1")
    os.environ[INTERFACE_VARIABLES[1]] = "eth7"
    torchrun_world("cpu")
    told.put([os.environ.get(name) for name in INTERFACE_VARIABLES])
    dist.destroy_process_group()


def test_torchruns_ranks_on_one_machine_stay_on_loopback_unless_the_user_names_an_interface():
    told = FORKS.Queue()
    rank = FORKS.Process(target=_meet_under_torchrun, args=(free_ports(1)[0], told))
    rank.start()
    assert told.get(timeout=LIMIT_S) in (["lo", "eth7"], ["lo0", "eth7"])
    assert ended(rank) == 0


def _seen_by_another_user(path: Path) -> str:
    """What becomes of another user's attempt to look into a folder."""
    script = f"import os\nos.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})\nos.listdir({str(path)!r})"
    done = subprocess.run(["python3", "-c", script], capture_output=True, text=True)
    return re.search(r"Permission denied|$", done.stderr)[0]


@contextlib.contextmanager
def running(command: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A command of ours without any setting of Ray's, whose home and temporary folder are below `folder`."""
    (deep := folder / "a-temporary-folder-of-a-job-on-a-cluster" / "with-a-long-name").mkdir(parents=True)
    env = bare_environment() | {"HOME": str(folder), "TMPDIR": str(deep)} | environment
    output = open(folder / "output.txt", "w")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True
    )
    try:
        yield process
    finally:
        end_session(process)


def own_folders() -> set[Path]:
    return {path for base in place.SHARED_BASES for path in Path(base).glob(f"{PREFIX}*")}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("job", ["train", "tune"])
def test_a_local_run_with_two_workers_is_closed_to_others_and_leaves_nothing(tmp_path, folder, job):
    """Each socket of each process, the folder of its sockets, and what is left after Ctrl-C; under a long $TMPDIR."""
    settings = small_run(tmp_path, folder, optim=dict(epochs=1000))
    command = [f"jobs.{job}", *written(settings, tmp_path)]
    if job == "train":
        command += ["--num-workers", "2"]
    else:
        command += ["--space", str(ROOT / "tune_spaces" / "mix.py"), "--num-samples", "1", "--workers-per-trial", "2"]
    before = own_folders()
    with running(command, tmp_path) as process:
        until(lambda: any(losses(file.parent) for file in tmp_path.glob("outputs/**/metrics.jsonl")), process)
        assert beyond_loopback(process.pid) == []
        commands = list(commands_of(process.pid))
        assert sum("TrainWorker" in command for command in commands) == 2
        [made] = own_folders() - before
        [session] = made.glob("ray/session_2*")
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert os.getuid() != 0 or _seen_by_another_user(session) == "Permission denied"
        assert any(str(session) in command for command in commands)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert own_folders() - before == set()


NUMBER = ["unshare", f"--map-user={OTHER_USER}", f"--map-group={OTHER_USER}"]
as_a_number = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*NUMBER, "true"], capture_output=True).returncode != 0,
    reason="needs the right to make a user namespace",
)


def run_as_a_number(*python: str, **environment: str) -> subprocess.CompletedProcess:
    """By a user without a name or a home, as in a container that was started under any number."""
    env = {name: value for name, value in bare_environment().items() if name not in ("HOME", "USER", "LOGNAME")}
    return subprocess.run(
        [*NUMBER, sys.executable, *python], cwd=ROOT, env=env | environment, capture_output=True, text=True,
        timeout=LIMIT_S,
    )  # fmt: skip


@as_a_number
def test_ray_can_be_imported_for_a_user_without_home_or_name():
    done = run_as_a_number("-c", "from volo.cluster.connect import prepare; prepare(None); import ray.train")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.ray
@as_a_number
def test_a_user_without_home_or_name_trains_on_a_cluster_of_their_own(tmp_path, folder):
    settings = small_run(tmp_path, folder, optim=dict(epochs=1))
    done = run_as_a_number("-m", "jobs.train", *written(settings, tmp_path), "--num-workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(settings.run_dir)
