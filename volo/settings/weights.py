"""Weights to start from, as users name them: a path, an address, or the name of a published model."""

import re

from volo.errors import InputError
from volo.settings.buckets import STARTS, check_place
from volo.settings.paths import shown

RELEASE = "https://github.com/sail-sg/volo/releases/download/volo_1/"
PUBLISHED = {
    "volo_d1_224": "d1_224_84.2.pth.tar",
    "volo_d1_384": "d1_384_85.2.pth.tar",
    "volo_d2_224": "d2_224_85.2.pth.tar",
    "volo_d2_384": "d2_384_86.0.pth.tar",
    "volo_d3_224": "d3_224_85.4.pth.tar",
    "volo_d3_448": "d3_448_86.3.pth.tar",
    "volo_d4_224": "d4_224_85.7.pth.tar",
    "volo_d4_448": "d4_448_86.79.pth.tar",
    "volo_d5_224": "d5_224_86.10.pth.tar",
    "volo_d5_448": "d5_448_87.0.pth.tar",
    "volo_d5_512": "d5_512_87.07.pth.tar",
}
HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([\w./-]+))?")
HUB_FILE = "model.safetensors"
WEB = re.compile(r"https?://[^\s#]+(#sha256=[0-9a-f]{64})?")
# Also with slashes that pathlib has merged, which is then a mistake to be said.
ADDRESS = re.compile(r"(?:https?|hf):/", re.IGNORECASE)


def check_weights_text(text: str, name: str) -> str:
    """Returns `text`. Raises InputError if it can be neither an address nor a path; `name` is the setting."""
    if not ADDRESS.match(text):
        return check_place(text, name)
    if not (WEB.fullmatch(text) or HUB.fullmatch(text)):
        raise InputError(
            f"{name} must be a path, https://HOST/FILE (followed by #sha256= and its 64 digits, to be sure of it), "
            f"hf://OWNER/NAME of the Hugging Face Hub, or a place on object storage ({', '.join(STARTS)}), got "
            f"{shown(text)}; correct it"
        )
    return text


def address_of(text: str) -> str | None:
    """Where the weights are fetched from, as https (plain http from this machine only); None for a path."""
    if text in PUBLISHED:
        return RELEASE + PUBLISHED[text]
    if found := HUB.fullmatch(text):
        return f"https://huggingface.co/{found[1]}/resolve/main/{found[2] or HUB_FILE}"
    return text if ADDRESS.match(text) else None
