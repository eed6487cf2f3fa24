"""Several seeds on object storage: a run for each, their summary beside them, and no other content."""

import json

import pytest

from tests.faults.tools.runs import draw_images
from tests.storage.copies import machine, seen, stored_run
from tests.training.runs import same, small_run, train, weights
from volo.cli import runs
from volo.cli.outcome import exit_code
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.places import SEEDS
from volo.settings.config import Settings, build_settings, merge
from volo.storage.bucket import Bucket
from volo.storage.lease import Lease
from volo.training.launch import train_here
from volo.training.seeds import of_seed


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("data"))


def of_seeds(place: str, tmp_path, images, **overrides) -> Settings:
    return stored_run(place, tmp_path, images, **merge({"run": dict(seeds=[0, 1]), "optim": dict(epochs=1)}, overrides))


def test_seeds_are_trained_there_as_on_a_disk_and_resumed_elsewhere(s3, tmp_path, images, monkeypatch, capsys):
    settings = of_seeds(f"{s3.new_bucket()}/runs", tmp_path, images)
    train_here(settings)
    alone = train(small_run(tmp_path, images, run=dict(seed=1, checkpoint_every=2), optim=dict(epochs=1)))
    assert same(weights(seen(of_seed(settings, 1))), weights(alone))
    text = Bucket(settings.home).read(SEEDS)[0]
    assert [*json.loads(text)["seeds"]] == ["0", "1"]

    monkeypatch.setenv("VOLO_CACHE_DIR", machine(tmp_path, "another")["VOLO_CACHE_DIR"])
    capsys.readouterr()
    train_here(settings)
    said = capsys.readouterr().out
    assert said.count("this run is finished") == 2
    assert said.splitlines()[-1] == f"run folder: {settings.home}"
    assert Bucket(settings.home).read(SEEDS)[0] == text
    monkeypatch.chdir(tmp_path)
    assert exit_code(runs.main, ["--fetch", settings.home, "--output-dir", "fetched"]) == 0
    folder = tmp_path / "fetched" / "run"
    assert (folder / SEEDS).read_bytes() == text and checkpoint.newest(folder / "seed1") is not None
    assert exit_code(runs.main, ["--output-dir", settings.run.output_dir]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        ["run/seed0", "finished"],
        ["run/seed1", "finished"],
    ]


def test_other_settings_are_refused_before_any_seed_is_trained_and_fresh_sets_the_seeds_aside(
    s3, tmp_path, images, capsys
):
    place = f"{s3.new_bucket()}/runs"
    train_here(of_seeds(place, tmp_path, images, run=dict(seeds=[1])))
    changed = of_seeds(place, tmp_path, images, optim=dict(lr=1e-3))
    with pytest.raises(InputError, match=r"(?s)got different ones for s3://[^ ]+/seed1.*optim.lr"):
        train_here(changed)
    assert "seed0" not in {name.split("/")[0] for name in Bucket(changed.home).names()}

    fresh = build_settings(changed.to_dict(), {"run": dict(fresh=True, seeds=[1])})
    lease = Lease.take(Bucket(f"{fresh.home}/seed1"), "a run")
    with pytest.raises(InputError, match="seed1 is being trained by another process"):
        train_here(fresh)
    lease.release()
    capsys.readouterr()
    train_here(fresh)
    assert f"renamed the previous runs to {fresh.home}.1" in capsys.readouterr().out
    assert {name.split("/")[0] for name in Bucket(f"{fresh.home}.1").names()} == {"seed1", SEEDS}


def test_a_run_or_something_else_in_their_place_is_refused(s3, tmp_path, images):
    settings = of_seeds(f"{s3.new_bucket()}/runs", tmp_path, images)
    Bucket(settings.home).write("notes.txt", b"")
    with pytest.raises(InputError, match=r"must hold runs of seeds or nothing, got notes.txt; choose another"):
        train_here(settings)
