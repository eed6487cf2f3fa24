"""Weights by their address: fetched once from a real server, checked, and refused with what to do instead."""

import hashlib

import pytest

from tests.data.archives.served import served
from tests.training.runs import same, small_run, train, weights
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.remote import local_weights
from volo.settings.weights import PUBLISHED, address_of, check_weights_text

FLAG = "--init-weights"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server():
    with served() as running:
        yield running


def test_a_run_starts_from_weights_at_an_address_as_from_the_same_file(tmp_path, folder, server):
    first = train(small_run(tmp_path, folder, optim=dict(max_steps=3)))
    file = checkpoint.newest(first) / "model.safetensors"
    content = file.read_bytes()
    address = f"{server.serve('some/model.safetensors', content)}#sha256={hashlib.sha256(content).hexdigest()}"

    def started(name, source):
        return train(small_run(tmp_path, folder, optim=dict(init_weights=str(source)), run=dict(run_name=name)))

    assert same(weights(started("fetched", address)), weights(started("local", file)))
    assert server.requests == ["/some/model.safetensors"]


def test_a_file_is_fetched_once_and_then_needs_no_network(server):
    address = server.serve("w.safetensors", b"weights")
    found = local_weights(address, FLAG)
    server.pages.clear()
    assert local_weights(address, FLAG) == found
    assert found.read_bytes() == b"weights"
    assert found.suffix == ".safetensors"
    assert server.requests == ["/w.safetensors"]


def test_what_is_cut_short_missing_or_changed_is_refused_and_not_kept(server, cache):
    content = b"weights"
    short = server.serve("short.pth", content, announced=100)
    other = server.serve("other.pth", content) + "#sha256=" + 64 * "0"
    gone = f"{server.url}/gone.pth"
    for address, said in ((short, "stopped after 7 of 100"), (other, "not 0000"), (gone, "answers 404")):
        with pytest.raises(InputError, match=f"{said}.*; download it on any machine and name the file"):
            local_weights(address, FLAG)
    assert not [file for file in (cache / "weights").iterdir() if file.suffix != ".lock"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://timm/volo_d1_224.sail_in1k", "https://huggingface.co/timm/volo_d1_224.sail_in1k/resolve/main/model.safetensors"),
        ("hf://me/it/last.pth", "https://huggingface.co/me/it/resolve/main/last.pth"),
        ("volo_d1_224", "https://github.com/sail-sg/volo/releases/download/volo_1/d1_224_84.2.pth.tar"),
        ("https://host/x.pth", "https://host/x.pth"),
        ("./volo_d1_224", None),
        ("outputs/run", None),
    ],
)  # fmt: skip
def test_names_and_addresses_mean_one_file_each(text, address):
    assert check_weights_text(text, "init_weights") == text
    assert address_of(text) == address


def test_every_published_model_has_an_address_of_its_own():
    assert len({address_of(name) for name in PUBLISHED}) == len(PUBLISHED)


@pytest.mark.parametrize(
    "text", ["https:/host/x", "hf://owner", "hf://", "https://host/x#sha256=12", "HTTPS://host/x", "https://host/a b"]
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(text):
    with pytest.raises(InputError, match="init_weights must be a path, https://HOST/FILE"):
        check_weights_text(text, "init_weights")


def test_plain_http_is_for_this_machine_alone():
    with pytest.raises(InputError, match="must be an https:// URL"):
        local_weights("http://192.0.2.1/x.pth", FLAG)
