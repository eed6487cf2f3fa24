"""Weights that lie elsewhere: fetched once per node, into the cache."""

import contextlib
import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from volo.cache import OTHER_PLACE, cache_dir
from volo.data.archives.download import DownloadError, save
from volo.errors import InputError
from volo.files import replaced
from volo.locks import waited_for
from volo.runs.copies import local_copy
from volo.settings.weights import address_of


def local_weights(text: str, name: str) -> Path:
    """The path of weights, which are fetched first if `text` is an address or the name of a published model.

    A file that was fetched before is taken as it is, without asking the network.

    Args:
        text: As `check_weights_text` takes it.
        name: The setting or flag that it was given to.

    Raises:
        InputError: no network, a file cut short or with another checksum; the message says what to put where.
    """
    address = address_of(text)
    if address is None:
        return local_copy(text, name)
    url, _, fragment = address.partition("#")
    folder = cache_dir() / "weights"
    file = folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{_name_in(url)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with waited_for(Path(f"{file}.lock"), f"fetching {file.name}", OTHER_PLACE, lambda: _growth(folder)):
            if not file.exists():
                _download(url, fragment.removeprefix("sha256="), file, name)
    except OSError as error:
        raise InputError(
            f"the cache must have room for weights, got {folder} ({error.strerror or error}); free some space, or "
            f"{OTHER_PLACE}"
        ) from None
    return file


def _name_in(url: str) -> str:
    """A file name by which the format is known."""
    name = Path(unquote(urlsplit(url).path)).name
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[-100:] or "weights"


def _growth(folder: Path) -> object:
    with contextlib.suppress(OSError):
        return [(file.name, file.stat().st_size) for file in folder.glob(".*.partial")]
    return None


def _download(url: str, sha256: str, file: Path, name: str) -> None:
    digest = hashlib.sha256()
    try:
        with replaced(file) as partial:
            save(url, partial, f"fetching {url}", digest)
            if sha256 and digest.hexdigest() != sha256:
                raise DownloadError(f"has sha256 {digest.hexdigest()}, not {sha256}")
    except DownloadError as error:
        raise InputError(
            f"{name} must name weights that can be fetched, got {url}, which {error}; download it on any machine and "
            f"name the file, or save it as {file}"
        ) from None
