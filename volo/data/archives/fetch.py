"""Archives of published data sets: downloaded once per node, and used only if their checksums match.

Anything under its final name is complete: downloads and unpacked folders are staged beside it, checked, then renamed. A
lock in the data directory lets one process download while the node's other processes wait.
"""

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from volo.data.archives.download import DownloadError, check_url, save
from volo.errors import InputError, brief
from volo.files import commit, staging, sync
from volo.locks import waited_for
from volo.settings.paths import path_to_read

MIRROR = "VOLO_DATA_MIRROR"
LARGEST_UNPACKED = 2**32  # bytes; several times the largest data set known here


@dataclass(frozen=True)
class Archive:
    """A published gzipped tar file.

    Attributes:
        url: https; plain http only from this machine's loopback.
        md5: The archive's md5, in hex.
        folder: The folder it unpacks to.
        members: The files in `folder` that are used, each with its md5, or None if the archive's own checksum is
            enough.
    """

    url: str
    md5: str
    folder: str
    members: Mapping[str, str | None]

    @property
    def file(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def md5s(self) -> dict[str, str] | None:
        """Checksums of the members; None unless all are known."""
        known = {name: md5 for name, md5 in self.members.items() if md5 is not None}
        return known if len(known) == len(self.members) else None


@dataclass(frozen=True)
class Unpacked:
    """An unpacked archive; `md5s` holds the checksum of every file that is used."""

    folder: Path
    md5s: Mapping[str, str]

    def read(self, name: str) -> bytes:
        """A file's bytes, checked against its checksum. Raises InputError if it is missing or does not match."""
        remedy = f"remove {self.folder} to unpack its archive again"
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.folder} must hold a readable {name}, got {error.strerror}; {remedy}") from None
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != self.md5s[name]:
            raise InputError(f"{self.folder / name} must have md5 {self.md5s[name]}, got {found}; {remedy}")
        return content


def fetch(archive: Archive, data_dir: str | Path) -> Unpacked:
    """The unpacked archive in `data_dir`, downloaded and unpacked if needed.

    The archive, its unpacked folder, or that folder's files themselves may have been put there by hand. Existing files
    are never overwritten or removed, whatever is wrong with them.

    Raises:
        InputError: no network, a wrong checksum, an unsafe archive; the message says which file to put where.
    """
    data_dir = path_to_read(data_dir, "--data-dir")
    if unpacked := _unpacked(archive, data_dir):
        return unpacked
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _alone(archive, data_dir):
            return _fetched(archive, data_dir)
    except OSError as error:
        raise InputError(
            f"the data directory must be writable, with space for {archive.file} and its content, got {data_dir} "
            f"({error.strerror or error}); free some space, or pass another with --data-dir"
        ) from None


def _alone(archive: Archive, data_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Lets one process download and unpack; the others wait while its files grow."""

    def progress() -> object:
        with contextlib.suppress(OSError):
            return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in data_dir.glob(".*.partial")]
        return None

    lock = data_dir / f".{archive.file}.lock"
    return waited_for(lock, f"fetching {archive.file}", "pass another folder with --data-dir", progress)


def look(archive: Archive, data_dir: str | Path) -> Path | None:
    """The folder or archive that `fetch` would use, with its checksums verified; None if it would download.

    Raises:
        InputError: a wrong checksum or a missing member.
    """
    data_dir = path_to_read(data_dir, "--data-dir")
    file, folder = data_dir / archive.file, data_dir / archive.folder
    unpacked = _unpacked(archive, data_dir)
    if unpacked is None and folder.exists() and archive.md5s is not None:
        unpacked = Unpacked(folder, archive.md5s)
    if unpacked:
        for name in unpacked.md5s:
            unpacked.read(name)
        return unpacked.folder
    if not file.exists():
        return None
    _check_archive(archive, file)
    return file


def mirrored(archive: Archive) -> Archive:
    """The archive with its URL replaced by $VOLO_DATA_MIRROR, if that is set.

    The variable holds the URL of a folder, ending in `/`, or of the file itself. Its content must have the published
    checksums, unless the file's URL is followed by `#md5=<hex>`, which is then the archive's checksum.

    Raises:
        InputError: another scheme, or the URL of another file.
    """
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return archive
    url, _, fragment = mirror.partition("#")
    own = replace(archive, url=url + archive.file if url.endswith("/") else url)
    kind, _, md5 = fragment.lower().partition("=")
    is_md5 = kind == "md5" and len(md5) == 32 and not set(md5) - set("0123456789abcdef")
    if own.file != archive.file or (fragment and (not is_md5 or url.endswith("/"))):
        raise InputError(
            f"${MIRROR} must be a folder's URL ending in / or that of {archive.file}, optionally followed by #md5= and "
            f"32 hexadecimal digits, got {brief(mirror)}; correct or unset it"
        )
    try:
        check_url(own.url)
    except DownloadError as error:
        raise InputError(f"${MIRROR} {error}, got {brief(mirror)}; correct or unset it") from None
    return replace(own, md5=md5, members=dict.fromkeys(archive.members)) if fragment else own


def _unpacked(archive: Archive, data_dir: Path) -> Unpacked | None:
    """The archive's folder, or `data_dir` itself, if it holds all members and their checksums are known."""
    md5s = archive.md5s
    for folder in (data_dir / archive.folder, data_dir):
        if md5s is not None and all((folder / name).is_file() for name in md5s):
            return Unpacked(folder, md5s)
    return None


def _fetched(archive: Archive, data_dir: Path) -> Unpacked:
    """Like `fetch`; the caller holds the lock."""
    file, folder = data_dir / archive.file, data_dir / archive.folder
    if folder.exists() and archive.md5s is not None:
        return Unpacked(folder, archive.md5s)
    if file.exists():
        _check_archive(archive, file)
    else:
        _download(archive, file)
    try:
        md5s = _checked_members(archive, file)
        if not folder.exists():
            _unpack(archive, file, folder, md5s)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _refused(archive, file, f"got one that cannot be unpacked ({error});") from None
    return Unpacked(folder, md5s)


def _check_archive(archive: Archive, file: Path) -> None:
    if (found := _md5(file)) != archive.md5:
        raise _refused(archive, file, f"got md5 {found} of {file}; remove that file and try again, or")


def _refused(archive: Archive, file: Path, got: str) -> InputError:
    """The error for every failure: which file is needed, its checksum, what was found, and which file to put where."""
    return InputError(
        f"{archive.file} with md5 {archive.md5} is needed, from {archive.url}, {got} download it on any machine and "
        f"save it as {file}, or pass the folder that holds it with --data-dir"
    )


def _download(archive: Archive, file: Path) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        digest = hashlib.md5(usedforsecurity=False)
        save(archive.url, partial, f"fetching {file.name}", digest)
        if digest.hexdigest() != archive.md5:
            raise _refused(archive, file, f"got md5 {digest.hexdigest()} from there{_if_page(partial)};")
        partial.rename(file)
        sync(file.parent)
    except DownloadError as error:
        raise _refused(archive, file, f"but that {error};") from None
    finally:
        partial.unlink(missing_ok=True)


def _if_page(file: Path) -> str:
    with open(file, "rb") as opened:
        is_page = opened.read(64).lstrip().startswith(b"<")
    return ", a web page (of a proxy or a login?)" if is_page else ""


def _checked_members(archive: Archive, file: Path) -> dict[str, str]:
    """Checksums of the members. Checks every entry: only files and folders below `archive.folder` are allowed."""
    md5s, size = {}, 0
    with tarfile.open(file, "r:gz") as tar:
        for entry in tar:
            path = PurePosixPath(entry.name)
            size += entry.size
            is_plain = (entry.isfile() or entry.isdir()) and ".." not in path.parts
            if not is_plain or path.parts[:1] != (archive.folder,) or size > LARGEST_UNPACKED:
                raise _refused(archive, file, f"got one that is not safe to unpack (its entry {entry.name!r});")
            name = str(PurePosixPath(*path.parts[1:]))
            if entry.isfile() and name in archive.members:
                md5s[name] = archive.members[name] or _md5_in(tar, entry)
    if missing := archive.members.keys() - md5s.keys():
        raise _refused(archive, file, f"got one without {', '.join(sorted(missing))};")
    return md5s


def _md5_in(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    member = tar.extractfile(entry)
    assert isinstance(member, io.BufferedReader), "only a regular file is read"
    return hashlib.file_digest(member, "md5").hexdigest()


def _unpack(archive: Archive, file: Path, folder: Path, md5s: Mapping[str, str]) -> None:
    with staging(folder) as beside:
        with tarfile.open(file, "r:gz") as tar:
            tar.extractall(beside, filter="data")
        unpacked = Unpacked(beside / archive.folder, md5s)
        for name in md5s:
            unpacked.read(name)
        commit(unpacked.folder, folder)


def _md5(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()
