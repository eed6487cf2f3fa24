"""Small archives of the layout that CIFAR is published in, and a server on loopback to fetch them from."""

import contextlib
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np

from volo.data.archives.cifar import CIFAR10, CIFAR100
from volo.data.archives.fetch import Archive

CLASSES, COARSE_CLASSES = 10, 5


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings, which is how the published pickles came to be."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _string(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _string


def published_pickle(value: Any) -> bytes:
    out = io.BytesIO()
    _Python2Pickler(out, protocol=2).dump(value)
    return out.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tar_of(entries: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A gzipped tar file of these files, always with the same bytes; `links` maps symbolic links to their targets."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return out.getvalue()


def rows(num_images: int, seed: int) -> np.ndarray:
    """(num_images, 3072) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (num_images, 3072), dtype=np.uint8)


def cifar100_files(num_train: int = 120, num_test: int = 20) -> dict[str, bytes]:
    """The files of a small CIFAR-100: fine class i of ten lies in coarse class i % 5."""
    files = {}
    for seed, (split, size) in enumerate({"train": num_train, "test": num_test}.items()):
        fine = [(7 * index) % CLASSES for index in range(size)]
        files[split] = published_pickle({
            "filenames": [f"{index}.png" for index in range(size)],
            "batch_label": f"{split}ing batch 1 of 1",
            "fine_labels": fine,
            "coarse_labels": [label % COARSE_CLASSES for label in fine],
            "data": rows(size, seed),
        })  # fmt: skip
    fine_names = [f"fine {number}" for number in range(CLASSES)]
    coarse_names = [f"coarse {number}" for number in range(COARSE_CLASSES)]
    files["meta"] = published_pickle({"fine_label_names": fine_names, "coarse_label_names": coarse_names})
    return files


def cifar10_files() -> dict[str, bytes]:
    """The files of a small CIFAR-10: five batches of ten images, and a test batch."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {
        name: published_pickle({"data": rows(10, seed), "labels": list(range(10)), "batch_label": name})
        for seed, name in enumerate(names)
    }
    meta = {"label_names": [f"class {number}" for number in range(10)], "num_vis": 3072, "num_cases_per_batch": 10}
    return files | {"batches.meta": published_pickle(meta), "readme.html": b"<html>"}


def packed(files: dict[str, bytes], published: Archive = CIFAR100) -> tuple[bytes, Archive]:
    """An archive of these files named as a published one, and its description, with the true checksums."""
    content = tar_of({f"{published.folder}/{name}": value for name, value in files.items()})
    members = {name: md5(files[name]) for name in published.members}
    return content, Archive(published.url, md5(content), published.folder, members)


ARCHIVES = {"cifar100": (cifar100_files, CIFAR100), "cifar10": (cifar10_files, CIFAR10)}


@dataclass
class Server:
    """Answers at `url` with what `pages` holds, and notes every request."""

    url: str
    pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def serve(self, name: str, content: bytes, *, announced: int | None = None, kind: str = "application/gzip") -> str:
        """The address of a file that the server now has; `announced` is the length it claims."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Type", kind)
            handler.send_header("Content-Length", str(len(content) if announced is None else announced))
            handler.end_headers()
            handler.wfile.write(content)

        self.pages[f"/{name}"] = answer
        return f"{self.url}/{name}"

    def redirect(self, name: str, target: str) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.end_headers()

        self.pages[f"/{name}"] = answer
        return f"{self.url}/{name}"


@contextlib.contextmanager
def served() -> Iterator[Server]:
    """A server on loopback, as long as the context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            page = server.pages.get(self.path)
            page(self) if page else self.send_error(404)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    httpd.shutdown()
    httpd.server_close()
    thread.join()
