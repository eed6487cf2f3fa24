"""Which files below a folder are images: one rule for training, prediction, analysis and doctor.

An image is a file, at any depth, with the suffix of a format that Pillow can read, or a file without a suffix whose
content is in such a format. Links to files and folders are followed, each folder once. Hidden entries, whose names
begin with a dot, files of the operating system and our own index are skipped. Any other entry is skipped too, and
counted.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from volo.data.folders.formats import is_image_by_content, readable_suffixes
from volo.data.folders.passed_over import DEAD_LINK, HIDDEN, LISTED, LOOSE, NO_SUFFIX, SPECIAL, PassedOver
from volo.data.packed import IN_PLACE
from volo.errors import InputError

# Names that operating systems and storage devices use among a user's files, in lowercase.
SYSTEM_NAMES = frozenset(
    {
        ".ds_store", ".localized", ".directory", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
        "icon\r", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "__macosx",
        "$recycle.bin", "system volume information", "lost+found", ".spotlight-v100", ".trashes", ".fseventsd",
        ".temporaryitems", ".appledouble", ".snapshot", ".snapshots",
    }
)  # fmt: skip
FOLDER = "folder"
LONGEST_SUFFIX = 12
Identity = tuple[int, int]  # device and inode


class ImageFile(NamedTuple):
    """A file by its path from the listed folder; `size` is -1 if it does not exist, as with a dead link.

    `changed_ns` is the time at which anything of it changed last, its name included: nobody can set that to an earlier
    one, as `cp -p` and tar set the time at which the content changed.
    """

    name: str
    size: int
    changed_ns: int

    @property
    def path(self) -> str:
        return os.path.abspath(self.name)


@dataclass
class Listing:
    """Images in the order of their paths, folder by folder, the entries that were skipped, and the folders that were
    listed, with the time at which the entries of each had changed last before."""

    files: list[ImageFile] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    folders: dict[str, int] = field(default_factory=dict)


def find_images(root: str | os.PathLike, elsewhere: set[Identity] | None = None) -> Listing:
    """The images below a folder, at any depth; links are followed, but no folder is listed twice.

    Args:
        root: The folder.
        elsewhere: Folders listed from other roots, which are skipped; this root's folders are added to it.

    Raises:
        InputError: a folder that cannot be read.
    """
    listing, elsewhere = Listing(), set() if elsewhere is None else elsewhere
    identity, modified_ns = _known(root)
    listing.folders[os.fspath(root)], seen = modified_ns, {identity}
    open_folders = [] if seen <= elsewhere else [_entries(root)]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
            continue
        if (reason := _reason(entry)) != FOLDER:
            _take(entry, reason, listing)
            continue
        identity, modified_ns = _known(entry.path)
        if identity in seen:
            listing.passed_over.note(LISTED, entry.path)
        elif identity not in elsewhere:
            seen.add(identity)
            listing.folders[entry.path] = modified_ns
            open_folders.append(_entries(entry.path))
    elsewhere |= seen
    return listing


def find_folders(root: str | os.PathLike) -> tuple[list[str], PassedOver]:
    """Paths of the folders directly below a folder, including links to folders, sorted: its classes or splits.

    Raises:
        InputError: a folder that cannot be read.
    """
    folders, passed_over = [], PassedOver()
    for path, reason in find_entries(root):
        if reason == FOLDER:
            folders.append(path)
        else:
            passed_over.note(reason or LOOSE, path)
    return folders, passed_over


def find_entries(root: str | os.PathLike) -> list[tuple[str, str]]:
    """Paths of all that lies directly below a folder, sorted, each with the reason why it is no image: empty for an
    image, FOLDER for a folder, and a file's suffix.

    Raises:
        InputError: a folder that cannot be read.
    """
    return [(entry.path, _reason(entry)) for entry in _entries(root)]


def _entries(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Sorted by name, without the files of the operating system."""
    try:
        with os.scandir(folder) as found:
            return iter(sorted((entry for entry in found if not is_systems(entry.name)), key=lambda entry: entry.name))
    except OSError as error:
        raise _unreadable(folder, error) from None


def is_systems(name: str) -> bool:
    """Whether an operating system, or `volo pack`, leaves files of this name among a user's."""
    return name.lower() in SYSTEM_NAMES or name.startswith("._") or name == IN_PLACE


def _reason(entry: os.DirEntry) -> str:
    """Why an entry is skipped: empty for an image, FOLDER for a folder to look into."""
    if entry.name.startswith("."):
        return HIDDEN
    try:
        if entry.is_dir():
            return FOLDER
        if entry.is_file():
            return _reason_by_name(entry)
    except OSError:  # links in a circle
        return DEAD_LINK
    return DEAD_LINK if entry.is_symlink() else SPECIAL


def _reason_by_name(entry: os.DirEntry) -> str:
    suffix = suffix_of(entry.name)
    if suffix in readable_suffixes():
        return ""
    if not suffix:
        return "" if is_image_by_content(entry.path) else NO_SUFFIX
    return suffix


def suffix_of(name: str) -> str:
    """In lowercase, with the dot; empty without a letter or with a space, as in `frame.0001` and `No. two`."""
    suffix = os.path.splitext(name)[1].lower()
    is_suffix = any(map(str.isalpha, suffix)) and suffix.isprintable() and not any(map(str.isspace, suffix))
    return suffix if is_suffix and len(suffix) <= LONGEST_SUFFIX else ""


def _take(entry: os.DirEntry, reason: str, listing: Listing) -> None:
    if not reason:
        try:
            stat = entry.stat()  # is_file has cached this for a link
            listing.files.append(ImageFile(entry.path, stat.st_size, stat.st_ctime_ns))
            return
        except OSError:  # removed a moment ago
            reason = DEAD_LINK
    listing.passed_over.note(reason, entry.path)


def _known(folder: str | os.PathLike) -> tuple[Identity, int]:
    """Which folder it is, and when its entries changed last."""
    try:
        stat = os.stat(folder)
        return (stat.st_dev, stat.st_ino), stat.st_mtime_ns
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: str | os.PathLike, error: OSError) -> InputError:
    return InputError(
        f"a folder of images must be readable, got {os.fspath(folder)} ({error.strerror}); check its permissions"
    )
