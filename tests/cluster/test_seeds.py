"""Several seeds on a cluster and under torchrun: one start for all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT
from tests.conftest import draw_folder
from tests.ports import free_ports
from tests.training.runs import losses, same, small_run, train, weights

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """Four steps a run; nothing random inside the model."""
    folder = tmp_path_factory.mktemp("seeds")
    images = draw_folder(folder / "images", {"train": {"cat": 40, "dog": 40}})
    values = small_run(folder, images, optim=dict(epochs=1, use_amp=False)).to_dict()
    values["run"] |= {"num_workers": None}
    (folder / "config.json").write_text(json.dumps(values))  # JSON is YAML
    return folder / "config.json"


def run(config: Path, env: dict[str, str], *flags: str, launcher: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *launcher, "-m", "jobs.train", "--config", str(config), "--seeds", "0", "1", *flags]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> Path:
    """Seed 1 by itself, in this process."""
    overrides = dict(run=dict(seed=1), optim=dict(epochs=1, use_amp=False))
    return train(small_run(tmp_path_factory.mktemp("alone"), config.parent / "images", **overrides))


@pytest.mark.slow
def test_on_ray_all_seeds_share_one_cluster_and_finished_ones_start_none(config, ray_env, alone):
    printed = run(config, ray_env, "--run-name", "ray", "--num-workers", "1")
    run_dir = config.parent / "outputs" / "ray"
    assert printed.count("starting Ray on this machine") == 1
    assert printed.splitlines()[-1] == f"run folder: {run_dir}"
    assert same(weights(run_dir / "seed1"), weights(alone))
    assert list(json.loads((run_dir / "seeds.json").read_text())["seeds"]) == ["0", "1"]
    printed = run(config, ray_env, "--run-name", "ray", "--num-workers", "1")
    assert printed.count("this run is finished") == 2
    assert "starting Ray" not in printed


@pytest.mark.slow
def test_under_torchrun_all_seeds_share_one_start(config, ray_env, alone):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_ports(1)[0]}")
    printed = run(config, ray_env, "--run-name", "torchrun", launcher=launcher)
    run_dir = config.parent / "outputs" / "torchrun"
    assert printed.count("2 workers on cpu") == 2
    found, expected = losses(run_dir / "seed1"), losses(alone)
    assert found.keys() == expected.keys()
    assert all(abs(found[step] - expected[step]) < 1e-4 for step in expected)
    assert losses(run_dir / "seed0") != found
