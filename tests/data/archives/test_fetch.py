"""Downloads: what is refused, what is left behind, and that each happens once."""

import multiprocessing
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.archives.served import Server, md5, packed, served, tar_of
from volo.data.archives import download
from volo.data.archives.cifar import CIFAR10, CIFAR100
from volo.data.archives.fetch import MIRROR, Archive, fetch, mirrored
from volo.errors import InputError

FILES = {"train": b"images to train on", "test": b"images to test on", "meta": b"names"}


@pytest.fixture
def server():
    with served() as running:
        yield running


@pytest.fixture
def archive(server) -> Archive:
    """Served whole and well."""
    return offered(server, *packed(FILES))


def offered(server: Server, content: bytes, archive: Archive, **options) -> Archive:
    return replace(archive, url=server.serve(archive.file, content, **options))


def names(folder: Path) -> set[str]:
    """Everything in the folder except locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def refusal(archive: Archive, data_dir: Path) -> str:
    """The error of a download, which must name the file, its checksum, and where to save it."""
    with pytest.raises(InputError) as refused:
        fetch(archive, data_dir)
    message = str(refused.value)
    assert f"{archive.file} with md5 {archive.md5} is needed" in message
    assert f"save it as {data_dir / archive.file}" in message
    return message


def test_an_archive_is_fetched_checked_and_unpacked(tmp_path, server, archive):
    unpacked = fetch(archive, tmp_path / "data")
    assert {name: unpacked.read(name) for name in FILES} == FILES
    assert names(tmp_path / "data") == {"cifar-100-python", "cifar-100-python.tar.gz"}
    assert len(server.requests) == 1


def test_what_is_there_is_used_and_nothing_is_fetched(tmp_path, server, archive):
    content, _ = packed(FILES)
    whole, loose, zipped = tmp_path / "whole", tmp_path / "loose", tmp_path / "zipped"
    for folder in (whole / archive.folder, loose):
        folder.mkdir(parents=True)
        for name, value in FILES.items():
            (folder / name).write_bytes(value)
    zipped.mkdir()
    (zipped / archive.file).write_bytes(content)
    for data_dir in (whole, loose, zipped):
        assert fetch(archive, data_dir).read("train") == FILES["train"]
    assert server.requests == []


def fetched_text(archive: Archive, data_dir: Path) -> bytes:
    return fetch(archive, data_dir).read("train")


def test_four_processes_at_once_fetch_once(tmp_path, server, archive):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(fetched_text, [(archive, tmp_path)] * 4, chunksize=1)
    assert found == [FILES["train"]] * 4
    assert server.requests == ["/cifar-100-python.tar.gz"]


def test_a_download_with_a_wrong_checksum_is_refused_with_both(tmp_path, server):
    _, archive = packed(FILES)
    other, _ = packed(FILES | {"train": b"something else"})
    message = refusal(offered(server, other, archive), tmp_path)
    assert f"got md5 {md5(other)} from there;" in message
    assert names(tmp_path) == set()


def test_an_archive_placed_there_with_a_wrong_checksum_is_refused_and_kept(tmp_path, server, archive):
    (tmp_path / archive.file).write_bytes(b"not it")
    message = refusal(archive, tmp_path)
    assert f"got md5 {md5(b'not it')} of {tmp_path / archive.file}; remove that file and try again" in message
    assert (tmp_path / archive.file).read_bytes() == b"not it"
    assert server.requests == []


def test_a_body_shorter_than_announced_is_refused(tmp_path, server):
    content, archive = packed(FILES)
    archive = offered(server, content[:100], archive, announced=len(content))
    assert f"stopped after 100 of {len(content):,} bytes" in refusal(archive, tmp_path)
    assert names(tmp_path) == set()


def test_a_web_page_instead_of_an_archive_is_named_in_the_error(tmp_path, server):
    _, archive = packed(FILES)
    archive = offered(server, b"\n<!DOCTYPE html><p>Please log in", archive, kind="text/html")
    assert "a web page (of a proxy or a login?)" in refusal(archive, tmp_path)


def test_a_server_without_the_file_and_no_server_at_all_are_named(tmp_path, server):
    _, archive = packed(FILES)
    assert "answers 404" in refusal(replace(archive, url=f"{server.url}/{archive.file}"), tmp_path)
    nowhere = replace(archive, url=f"https://127.0.0.1:1/{archive.file}")
    assert "cannot be reached" in refusal(nowhere, tmp_path)


def test_a_silent_server_is_not_waited_for_forever(tmp_path, server, monkeypatch):
    monkeypatch.setattr(download, "STALL_S", 0.2)
    done = threading.Event()
    _, archive = packed(FILES)
    server.pages[f"/{archive.file}"] = lambda handler: done.wait()
    try:
        message = refusal(replace(archive, url=f"{server.url}/{archive.file}"), tmp_path)
    finally:
        done.set()
    assert "0.2 seconds" in message


def test_what_never_ends_is_cut_off(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 100)
    assert "sends more than 100 bytes" in refusal(archive, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(download, "LIMIT_S", -1.0)
    assert "has not sent the whole file" in refusal(archive, tmp_path)


@pytest.mark.parametrize(
    "url", ["http://example.com/", "ftp://127.0.0.1/", "file:///a/", "http://127.0.0.1.example.com/"]
)
def test_only_https_is_fetched_from_elsewhere(tmp_path, server, url):
    _, archive = packed(FILES)
    assert "must be an https:// URL" in refusal(replace(archive, url=url + archive.file), tmp_path)
    message = refusal(replace(archive, url=server.redirect(archive.file, url)), tmp_path)
    assert f"redirects to {url}, which must be" in message or "is not allowed" in message


@pytest.mark.parametrize(
    ("entries", "links"),
    [
        ({"../outside": b"x"}, {}),
        ({"cifar-100-python/../../outside": b"x"}, {}),
        ({"/tmp/volo-outside": b"x"}, {}),
        ({}, {"cifar-100-python/link": "/etc/passwd"}),
        ({}, {"cifar-100-python/link": "train"}),
        ({"other-folder/train": b"x"}, {}),
    ],
)
def test_an_unsafe_archive_is_not_unpacked_though_its_checksum_holds(tmp_path, server, entries, links):
    content = tar_of({f"cifar-100-python/{name}": value for name, value in FILES.items()} | entries, links)
    _, archive = packed(FILES)
    archive = offered(server, content, replace(archive, md5=md5(content)))
    message = refusal(archive, tmp_path / "a" / "data")
    assert f"is not safe to unpack (its entry {[*entries, *links][0]!r})" in message
    assert names(tmp_path / "a" / "data") == {archive.file}
    assert names(tmp_path / "a") == {"data"}
    assert names(tmp_path) == {"a"}


def test_an_archive_that_unpacks_too_large_is_refused(tmp_path, archive, monkeypatch):
    monkeypatch.setattr("volo.data.archives.fetch.LARGEST_UNPACKED", 20)
    assert "is not safe to unpack" in refusal(archive, tmp_path)


def test_members_are_checked_after_unpacking_and_whenever_read(tmp_path, server):
    content, archive = packed(FILES)
    archive = offered(server, content, archive)
    wrong = replace(archive, members=archive.members | {"meta": md5(b"other names")})
    with pytest.raises(InputError, match=rf"must have md5 {md5(b'other names')}, got {md5(b'names')}"):
        fetch(wrong, tmp_path)
    assert names(tmp_path) == {archive.file}
    unpacked = fetch(archive, tmp_path)
    (unpacked.folder / "train").write_bytes(b"changed")
    with pytest.raises(
        InputError, match=f"must have md5 .* got {md5(b'changed')}; remove .*cifar-100-python to unpack"
    ):
        fetch(archive, tmp_path).read("train")
    (unpacked.folder / "train").unlink()
    with pytest.raises(InputError, match=r"must hold a readable train"):
        fetch(archive, tmp_path).read("train")


@pytest.mark.parametrize("content", [b"\x1f\x8b not gzip", b"", tar_of({"cifar-100-python/meta": b"names"})])
def test_an_archive_that_is_damaged_or_lacks_files_is_refused(tmp_path, server, content):
    _, archive = packed(FILES)
    message = refusal(offered(server, content, replace(archive, md5=md5(content))), tmp_path)
    assert "got one that cannot be unpacked" in message or "got one without test, train" in message


def test_leftovers_of_a_killed_fetch_do_no_harm(tmp_path, archive):
    (tmp_path / f".{archive.file}.partial").write_bytes(b"half")
    (tmp_path / f".{archive.folder}.another-host-7.partial").mkdir()
    fetch(archive, tmp_path)
    assert names(tmp_path) == {archive.folder, archive.file}


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path, archive):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="the data directory must be writable"):
        fetch(archive, tmp_path / "file")


def test_a_mirror_is_used_with_the_published_checksums_or_with_its_own(tmp_path, server, monkeypatch):
    content, _ = packed(FILES)
    url = server.serve(CIFAR100.file, content)
    monkeypatch.setenv(MIRROR, server.url + "/")
    assert mirrored(CIFAR100) == replace(CIFAR100, url=url)
    assert f"got md5 {md5(content)}" in refusal(mirrored(CIFAR100), tmp_path)
    monkeypatch.setenv(MIRROR, f"{url}#md5={md5(content)}")
    unpacked = fetch(mirrored(CIFAR100), tmp_path)
    assert unpacked.read("train") == FILES["train"]
    (unpacked.folder / "train").write_bytes(b"changed")
    with pytest.raises(InputError, match="must have md5"):
        fetch(mirrored(CIFAR100), tmp_path).read("train")


@pytest.mark.parametrize(
    "mirror",
    [
        "http://example.com/",
        "https://example.com/cifar-10-python.tar.gz",
        "https://example.com/cifar-100-python.tar.gz#md5=123",
        f"https://example.com/#md5={'a' * 32}",
        f"https://example.com/cifar-100-python.tar.gz#sha1={'a' * 32}",
        "cifar-100-python.tar.gz",
    ],
)
def test_an_invalid_mirror_is_refused(monkeypatch, mirror):
    monkeypatch.setenv(MIRROR, mirror)
    with pytest.raises(InputError, match=r"\$VOLO_DATA_MIRROR must .*; correct or unset it"):
        mirrored(CIFAR100)


def test_the_checksums_are_those_of_torchvisions_table():
    from torchvision.datasets import CIFAR10 as TheirCifar10
    from torchvision.datasets import CIFAR100 as TheirCifar100

    for ours, theirs in ((CIFAR10, TheirCifar10), (CIFAR100, TheirCifar100)):
        assert (ours.url, ours.file, ours.md5) == (theirs.url, theirs.filename, theirs.tgz_md5)
        listed = [*theirs.train_list, *theirs.test_list, [theirs.meta["filename"], theirs.meta["md5"]]]
        assert ours.members == dict(listed)
        assert ours.folder == theirs.base_folder
