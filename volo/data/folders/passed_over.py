"""The entries that a listing of images skipped: how many for each reason, in words, and what to do about them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from volo.data.folders.formats import HEIF_SUFFIXES, is_image_by_content
from volo.log import say_once

# Formats that people think of as images but Pillow may not read.
PICTURE_SUFFIXES = HEIF_SUFFIXES | frozenset(
    {
        ".avif", ".jxl", ".jxr", ".wdp", ".webp", ".jp2", ".j2k", ".jpx", ".tif", ".tiff",
        ".svg", ".svgz", ".eps", ".emf", ".wmf", ".exr", ".hdr", ".dcm", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw",
        ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".kdc", ".dcr", ".erf",
    }
)  # fmt: skip
NUM_NAMED = 6  # kinds in one message

# Why an entry is skipped, other than for its suffix; singular and plural.
HIDDEN = "hidden"
DEAD_LINK = "dead link"
SPECIAL = "special"
NO_SUFFIX = "no suffix"
LISTED = "listed"
LOOSE = "loose"
# In and beside tars (volo/data/tars/).
BESIDE = "beside"
LINK = "link"
OUTSIDE = "outside"
NO_TEXT = "no text"
DOTTED = "dotted"
UNLABELED = "unlabeled"
NO_IMAGE = "no image"
CALLED = {
    HIDDEN: ("hidden file or folder", "hidden files or folders"),
    DEAD_LINK: ("link that leads nowhere", "links that lead nowhere"),
    SPECIAL: ("pipe, socket or device", "pipes, sockets or devices"),
    NO_SUFFIX: ("file without a suffix that is not an image", "files without a suffix that are not images"),
    LISTED: ("folder listed by another name", "folders listed by another name"),
    LOOSE: ("image outside the class folders", "images outside the class folders"),
    BESIDE: ("image beside the tars", "images beside the tars"),
    LINK: ("link in a tar", "links in tars"),
    OUTSIDE: ("absolute name, or one with ..", "absolute names, or names with .."),
    NO_TEXT: ("name that is no text", "names that are no text"),
    DOTTED: ("image with more than one dot in its name", "images with more than one dot in their names"),
    UNLABELED: ("image without a label", "images without a label"),
    NO_IMAGE: ("label without an image", "labels without an image"),
}
REMEDIES = {
    DEAD_LINK: "restore the targets of the links",
    LOOSE: "move each image into the folder of its class",
    LINK: "make the tars again with what the links lead to",
    OUTSIDE: "make the tars again with names relative to a folder",
    DOTTED: "make the tars again with keys without dots, since a key ends at the first one",
    UNLABELED: "give each image KEY.cls with the number of its class",
}
CONVERT = "convert the pictures to JPEG or PNG"
INSTALL = "install pillow-heif on every machine, which reads HEIC"
RENAME = "give each image the suffix of its format"


class Kind(NamedTuple):
    """How many entries were skipped for one reason, and the first of them."""

    num_found: int
    example: str


@dataclass
class PassedOver:
    """Skipped entries by reason, or by suffix in lowercase."""

    kinds: dict[str, Kind] = field(default_factory=dict)

    def note(self, reason: str, path: str, count: int = 1) -> None:
        before, example = self.kinds.get(reason, (0, path))
        self.kinds[reason] = Kind(before + count, example)

    def add(self, other: "PassedOver") -> None:
        for reason, kind in other.kinds.items():
            self.note(reason, kind.example, kind.num_found)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def in_words(self) -> str:
        """Such as `3 .heic files (the first is cat/a.heic), 1 link that leads nowhere (cat/b.jpg)`; images first."""
        kinds = sorted(self.kinds.items(), key=lambda item: (not _remedy(*item), -item[1].num_found, item[0]))
        named = [_in_words(reason, kind) for reason, kind in kinds[:NUM_NAMED]]
        if rest := kinds[NUM_NAMED:]:
            named.append(f"{sum(kind.num_found for _, kind in rest):,} of {len(rest)} other kinds")
        return ", ".join(named)

    def remedy(self) -> str:
        """How to make usable those entries that their owner would call images; empty if there are none."""
        remedies = dict.fromkeys(_remedy(reason, kind) for reason, kind in self.kinds.items())
        return ", ".join(filter(None, remedies))


def say_passed_over(place: str, num_images: int, passed_over: PassedOver) -> None:
    """Logs once what a place holds besides its images."""
    if passed_over:
        say_once(f"{place}: {num_images:,} images; skipped: {passed_over.in_words()}")


def _remedy(reason: str, kind: Kind) -> str:
    """How to make an entry usable if its owner would call it an image; empty for others."""
    if reason in CALLED:
        return REMEDIES.get(reason, "")
    if reason in HEIF_SUFFIXES:
        return INSTALL
    if reason in PICTURE_SUFFIXES:
        return CONVERT
    return RENAME if is_image_by_content(kind.example) else ""


def _in_words(reason: str, kind: Kind) -> str:
    one, several = CALLED.get(reason) or (f"{reason} file", f"{reason} files")
    example = kind.example if kind.example.isprintable() else ascii(kind.example)
    return f"1 {one} ({example})" if kind.num_found == 1 else f"{kind.num_found:,} {several} (the first is {example})"
