"""`volo doctor`: what passes, what it warns of and what it fails on, each for real."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.data.archives.served import cifar100_files, packed
from volo.cli import doctor
from volo.cli.outcome import exit_code
from volo.cluster import folder
from volo.data.archives.cifar import CIFAR100
from volo.data.datasets import open_train
from volo.data.decoded import cache
from volo.doctor import cpu, gpu, versions
from volo.doctor.cache import ARCHIVES
from volo.doctor.data import check_cache, check_data
from volo.doctor.findings import examine, ok
from volo.errors import ExitCode, InputError
from volo.runs.folder import open_data
from volo.settings.config import build_settings, merge
from volo.training import precision

WELL = {"versions": "ok", "CPU": "ok", "GPU": "ok", "data": "ok", "cache": "ok", "output": "ok", "disk": "ok"}


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A user without tokens, addresses or modes, in a folder of few files."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def diagnosed(capsys, *flags: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and status and text by check."""
    try:
        code = exit_code(doctor.main, ["--recipe", "quickstart", *flags])
    except SystemExit as ended:
        code = ended.code
    return code, table(capsys.readouterr().out)


def table(printed: str) -> dict[str, tuple[str, str]]:
    header, *lines = printed.splitlines()
    start = header.index("found")
    rows = [(line[:start].split(maxsplit=1), line[start:]) for line in lines[:-1]]
    return {name.strip(): (status, found) for (status, name), found in rows}


def statuses(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: status for name, (status, _) in found.items()}


def test_a_machine_without_a_cluster_is_well(capsys):
    code, found = diagnosed(capsys)
    assert code == 0
    assert WELL.items() <= {**statuses(found), "GPU": "ok"}.items()
    assert found["versions"][1].startswith("python 3.")
    assert found["access"] == (
        "ok",
        "no token file; to open the dashboard of a cluster that a command starts, set RAY_AUTH_TOKEN",
    )
    assert found["upload"][1].startswith("0 B in 0 files from")
    assert "cluster" not in found


def test_a_cpu_that_imitates_bfloat16_is_named_and_fails_a_training_in_it(capsys, monkeypatch):
    monkeypatch.setattr(precision, "computes_bf16", lambda: False)
    monkeypatch.setattr(cpu, "computes_bf16", lambda: False)
    assert diagnosed(capsys)[1]["CPU"][1].endswith("which has to imitate bfloat16: train without --use-amp")
    code, found = diagnosed(capsys, "--use-amp")
    assert code == 6 and found["CPU"][0] == "failure"
    assert "--use-amp needs a CPU that computes in bfloat16" in found["CPU"][1]


def test_a_place_for_the_folder_of_a_cluster_is_looked_for(capsys, monkeypatch):
    _, found = diagnosed(capsys)
    assert found["Ray's folder"][0] == "ok"
    monkeypatch.setattr(folder, "SHARED_BASES", ())
    monkeypatch.setenv("RAY_TMPDIR", "/a-path-that-is-too-long-for-any-socket")
    monkeypatch.delenv("TMPDIR", raising=False)
    code, found = diagnosed(capsys)
    assert (code, found["Ray's folder"][0]) == (ExitCode.UNHEALTHY, "failure")
    assert "set RAY_TMPDIR to a folder of yours" in found["Ray's folder"][1]


def test_who_can_open_the_dashboard_is_told_where_it_listens(capsys, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", 64 * "0")
    _, found = diagnosed(capsys)
    assert found["access"] == (
        "ok",
        "no token file; the dashboard of a cluster that a command starts is on loopback only",
    )


def test_training_without_ray_is_not_asked_about_ray(capsys):
    _, found = diagnosed(capsys, "--num-workers", "0")
    assert {"address", "access", "upload"} & found.keys() == set()


def test_a_wrong_setting_is_refused_as_in_training(capsys):
    assert exit_code(doctor.main, ["--epochs", "0"]) == 2
    assert "--epochs must be" in capsys.readouterr().err


def test_versions_too_old_or_missing_are_failures(monkeypatch):
    wanted = ["torch>=999", "no-such-package", "numpy>=2", 'onnx>=999; extra == "export"']
    monkeypatch.setattr(versions.metadata, "requires", lambda name: wanted)
    found = versions.check_versions()
    assert found.status == "failure"
    assert found.found.endswith("for >=999; no no-such-package")
    assert "pip install" in found.remedy


def test_versions_other_than_the_tested_ones_are_a_warning(tmp_path):
    pins = tmp_path / "constraints.txt"
    pins.write_text(f"# tested\nnumpy==1.0\nnot-installed==3\npytest=={pytest.__version__}\n")
    [found] = versions.check_tested_versions(pins)
    assert found.status == "warning"
    assert found.found.startswith("1 differ: numpy ")
    assert versions.check_tested_versions(tmp_path / "none") == []


def test_a_local_build_is_the_version_it_is_a_build_of(monkeypatch, tmp_path):
    pins = tmp_path / "constraints.txt"
    pins.write_text("torch==2.14.1\n")
    monkeypatch.setattr(versions.metadata, "version", lambda name: "2.14.1+cu126")
    assert versions.check_tested_versions(pins)[0].status == "ok"


def test_a_gpu_that_is_required_and_not_there_is_a_failure():
    if gpu.torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.check_gpu(is_required=True).status == "failure"


@pytest.mark.parametrize(
    ("driver", "cuda", "said"),
    [
        ("570.86", "13.0", "driver 570.86, PyTorch built for CUDA 13.0, which needs driver 580 or newer"),
        ("580.65.06", "13.0", "driver 580.65.06, PyTorch built for CUDA 13.0"),
        ("535.1", "12.6", "driver 535.1, PyTorch built for CUDA 12.6"),
        ("535.1", None, "driver 535.1, PyTorch built without CUDA"),
        (None, "13.0", "driver unknown, PyTorch built for CUDA 13.0"),
    ],
)
def test_the_driver_is_held_against_the_build(driver, cuda, said):
    assert gpu.fit(driver, cuda) == said


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:17:18 UTC 2025\nGCC version: 13.3",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)",
    ],
)
def test_the_driver_is_read_from_its_kernel_module(text, monkeypatch, tmp_path):
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(gpu, "KERNEL_MODULE", tmp_path / "version")
    assert gpu.driver_version() == "580.65.06"


def test_no_room_for_the_checkpoints_is_a_failure_with_need_and_found(capsys):
    code, found = diagnosed(capsys, "--keep-checkpoints", "1000000000")
    assert code == ExitCode.UNHEALTHY == 6
    status, said = found["disk"]
    assert status == "failure"
    assert "needed for 1000000002 checkpoints of 1.8 MiB; free some space, lower --keep-checkpoints" in said


def test_every_seed_needs_room(capsys):
    _, found = diagnosed(capsys, "--seeds", "0", "1", "2")
    assert "needed for 12 checkpoints" in found["disk"][1]


def test_a_folder_that_cannot_be_written_is_a_failure(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, found = diagnosed(capsys, "--output-dir", str(tmp_path / "file" / "outputs"))
    assert code == ExitCode.UNHEALTHY == 6
    assert found["output"][0] == "failure"
    assert "set --output-dir" in found["output"][1]


def data_settings(folder: Path, dataset: str):
    return build_settings({"data": dict(dataset=dataset, data_dir=str(folder))}).resolved().data


def test_an_image_folder_is_looked_into(tmp_path):
    counts = {"cat": 20, "dog": 21}
    folder = draw_folder(tmp_path / "images", {"train": counts})
    found = check_data(data_settings(folder, "imagefolder"))
    assert (found.status, "no test split" in found.found) == ("warning", True)
    draw_folder(folder, {"test": counts})
    found = check_data(data_settings(folder, "imagefolder"))
    assert (found.status, found.found.startswith("41 images of 2 classes")) == ("ok", True)
    assert "; 41 to test on; 37 to train on, 4 to validate on" in found.found
    (folder / "train" / "cat" / "0000.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"got 1 of 16 that is not:\n.*cat/0000\.png"):
        check_data(data_settings(folder, "imagefolder"))


def test_the_room_for_decoded_images_is_what_training_is_refused_by(capsys, tmp_path, monkeypatch):
    folder = draw_folder(tmp_path / "images", {"train": {"cat": 20, "dog": 20}, "test": {"cat": 3, "dog": 3}})
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    many = draw_folder(tmp_path / "many", {"train": {"cat": 1000, "dog": 1000}, "test": {"cat": 3, "dog": 3}})
    settings = [
        build_settings({"data": dict(dataset="imagefolder", data_dir=str(place), image_size=size)}).resolved()
        for place, size in ((folder, 32), (many, 2**14))
    ]
    assert "138 KiB needed for 46 images still to be decoded" in check_cache(settings[0].data).found
    some = settings[0].data.model_copy(update=dict(train_images=10))
    open_train(some, is_new=True)  # 10 to train on, 4 held out and 6 to test on
    assert "for 26 images" in check_cache(settings[0].data).found
    too_large = check_cache(settings[1].data)
    assert (too_large.status, "needed for 2,006 images" in too_large.found) == ("failure", True)
    with pytest.raises(InputError) as refused:
        open_data(settings[1], is_new=True)
    needed = too_large.found.partition(" free at ")[2]
    assert f"{needed}; {too_large.remedy}" in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "free", "expected"),
    [
        ({}, 10**9, "training images are decoded once, for all epochs; "),
        ({}, 30_000, "training images are read from their files in every epoch (decoded, they would not fit); "),
        ({"augment": dict(crop_area=(0.3, 1.0))}, 10**9, "training images are read from their files in every epoch; "),
        ({"data": dict(image_store="files")}, 10**9, "training images are read from their files in every epoch; "),
        ({"data": dict(image_store="decoded")}, 30_000, "training images are decoded once, for all epochs; "),
    ],
    ids=str,
)
def test_what_training_images_are_read_from_is_said_as_training_does_it(tmp_path, monkeypatch, flags, free, expected):
    counts = {"cat": 20, "dog": 20}
    folder = draw_folder(tmp_path / "images", {"train": counts, "test": {"cat": 3, "dog": 3}})
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "free_bytes", lambda place: free)
    settings = build_settings(merge({"data": dict(dataset="imagefolder", data_dir=str(folder))}, flags)).resolved()
    assert check_cache(settings.data).found.startswith(expected)
    if settings.data.image_store == "decoded" and free < 10**9:
        return  # training is refused
    images, split = open_train(settings.data)
    assert (images.row(split.train) >= 0).all() == ("decoded once" in expected)


def test_an_archive_that_is_not_there_yet_is_counted_too(tmp_path):
    data = data_settings(tmp_path, "cifar100")
    assert "146 MiB needed for 50,000 images" in check_cache(data).found
    some = data.model_copy(update=dict(train_images=4000, image_size=64))
    assert "105 MiB needed for 9,000 images" in check_cache(some).found


def test_a_missing_image_folder_is_a_failure(capsys, tmp_path):
    code, found = diagnosed(capsys, "--dataset", "imagefolder", "--data-dir", str(tmp_path / "no"))
    assert (code, found["data"][0]) == (6, "failure")


def test_an_archive_is_fetched_at_the_start_unless_it_is_there_and_whole(tmp_path, monkeypatch):
    content, archive = packed(cifar100_files())
    monkeypatch.setitem(ARCHIVES, "cifar100", archive)
    data = data_settings(tmp_path / "data", "cifar100")
    missing = check_data(data)
    assert (missing.status, CIFAR100.url in missing.remedy) == ("warning", True)
    assert not (tmp_path / "data").exists()

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / archive.file).write_bytes(content)
    assert check_data(data).status == "ok"
    (tmp_path / "data" / archive.file).write_bytes(content[:-1])
    with pytest.raises(InputError, match=hashlib.md5(content[:-1]).hexdigest()):
        check_data(data)


def test_an_unpacked_archive_with_a_flipped_byte_is_a_failure(tmp_path, monkeypatch):
    files = cifar100_files()
    _, archive = packed(files)
    monkeypatch.setitem(ARCHIVES, "cifar100", archive)
    folder = tmp_path / archive.folder
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    data = data_settings(tmp_path, "cifar100")
    assert check_data(data).status == "ok"
    (folder / "test").write_bytes(files["test"][:-1] + b"!")
    with pytest.raises(InputError, match=r"cifar-100-python/test must have md5"):
        check_data(data)


def test_a_token_that_others_can_read_is_a_failure(capsys, tmp_path):
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    code, found = diagnosed(capsys)
    assert (code, found["access"][0]) == (6, "failure")
    assert f"got {token} with mode 0644; chmod 600 {token}" in found["access"][1]
    token.chmod(0o600)
    assert diagnosed(capsys)[1]["access"][0] == "ok"


def test_too_large_an_upload_is_named(capsys, tmp_path):
    with open(tmp_path / "here" / "large.bin", "wb") as file:
        file.truncate(2**30)
    code, found = diagnosed(capsys)
    assert (code, found["upload"][0]) == (0, "warning")
    assert "at least 1.0 GiB in 1 files" in found["upload"][1]
    assert ".rayignore" in found["upload"][1]


def test_auto_is_no_address(capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert diagnosed(capsys)[1]["address"] == ("ok", "none: jobs start their own cluster")
    monkeypatch.setattr("volo.cluster.doctor.check_cluster", lambda *_: [])
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert diagnosed(capsys)[1]["address"][0] == "warning"


def test_a_cluster_that_does_not_answer_is_a_failure(capsys, monkeypatch):
    monkeypatch.setattr("volo.cluster.access.PATIENCE_S", 0.1)
    code, found = diagnosed(capsys, "--address", "127.0.0.1:1")
    assert (code, found["cluster"][0]) == (6, "failure")
    assert "nothing listens there; check --address" in found["cluster"][1].replace(")", "")


def test_a_check_that_stumbles_is_a_failure_and_the_others_go_on():
    def stumbles():
        yield ok("first", "well")
        raise KeyError("x")

    found = examine({"one": stumbles, "two": lambda: ok("two", "well")})
    assert [finding.check for finding in found] == ["first", "one", "two"]
    assert [finding.status for finding in found] == ["ok", "failure", "ok"]
