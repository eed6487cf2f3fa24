"""Whether the nodes of a cluster run the same code on the same data, and what time it is there."""

import time
import zlib
from collections.abc import Callable, Sequence

from volo.cluster.nodes.asking import Answer, Node, ask, faults
from volo.data.contents import Contents, Differences
from volo.doctor.data import contents_here, seen_undecoded
from volo.doctor.findings import Finding, failure, ok, refused, warning
from volo.errors import InputError
from volo.settings.data import ResolvedData
from volo.training.guards.same_data import REMEDY, Seen, differing

DATA_S = 120.0  # to list the images of a slow disk, and to read up to 1 GiB of them
CLOCK_S = 5.0
NECESSARY = ("python", "ray", "volo")  # others may differ, if they can talk to each other


def versions_question() -> Callable[[], dict[str, str]]:
    """The function that says which versions a process runs. It is nested and imports what it needs, so that Ray sends
    its code along: a node of another version of this package may not have it."""

    def versions() -> dict[str, str]:
        import hashlib
        import platform
        import re
        from importlib import metadata, util
        from pathlib import Path

        def installed(name: str) -> str:
            try:
                return metadata.version(name).partition("+")[0]  # builds for different GPUs are of one version
            except metadata.PackageNotFoundError:
                return "none"

        def own() -> str:
            found = util.find_spec("volo")
            if found is None or found.origin is None:
                return "none"
            folder, sources = Path(found.origin).parent, hashlib.sha256()
            for path in sorted(folder.rglob("*.py")):
                if (name := path.relative_to(folder)).parts[0] != "tune_spaces":  # in a wheel alone
                    sources.update(f"{name.as_posix()}\0".encode() + path.read_bytes())
            stated = re.search(r'__version__ = "(.*)"', (folder / "__init__.py").read_text())
            return f"{stated[1] if stated else ''} of sources {sources.hexdigest()[:8]}"

        python = ".".join(platform.python_version_tuple()[:2])
        return {"python": python, "torch": installed("torch"), "ray": installed("ray"), "volo": own()}

    return versions


def check_node_versions(nodes: Sequence[Node]) -> Finding:
    """Whether every node runs the versions of this process, and its code."""
    versions = versions_question()
    return compared_versions(versions(), ask(nodes, versions))


def compared_versions(own: dict[str, str], answers: dict[Node, Answer]) -> Finding:
    wrong, other = faults(answers), list[str]()
    for node, answer in answers.items():
        for name, version in (answer.value or {}).items():
            if version != own[name]:
                said = f"{node.name} has {name} {version} where this machine has {own[name]}"
                (wrong if name in NECESSARY else other).append(said)
    remedy = "install the same versions on all nodes, or send this code along with `volo submit`"
    if wrong:
        return failure("node versions", "; ".join([*wrong, *other]), remedy)
    if other:
        return warning("node versions", "; ".join(other), remedy)
    shown = ", ".join(f"{name} {version}" for name, version in own.items())
    return ok("node versions", f"the same on {_counted(answers)}: {shown}")


def check_node_data(nodes: Sequence[Node], data: ResolvedData) -> Finding:
    """Whether every node has the images, classes and split of this machine, which training compares too."""
    plain = data.model_dump()
    own = data_of(plain)
    answers = ask(nodes, data_of, lambda node: (plain,), DATA_S)
    others = [node for node, answer in answers.items() if answer.value and "images" in _differing(own, answer.value)]
    words: dict[Node, str] = {}
    if others:
        text = zlib.compress(contents_here(data).text, level=1)
        asked = ask(others, differences_from, lambda node: (plain, text), DATA_S)
        words = {node: answer.value for node, answer in asked.items() if answer.value}
    return compared_data(own, answers, words)


def compared_data(own: Seen, answers: dict[Node, Answer], words: dict[Node, str]) -> Finding:
    """The finding on what each node has seen.

    Args:
        own: What this machine has.
        words: How the images of those that differ do, where that is known.
    """
    slow = faults(answers)
    seen: dict[Node, Seen] = {node: answer.value for node, answer in answers.items() if not answer.fault}
    wrong = [f"{node.name}: {one.refusal}" for node, one in seen.items() if one.refusal]
    for node, one in seen.items():
        if what := _differing(own, one):
            parts = f"{' and '.join(what)}: {words[node]}" if node in words else " and ".join(what)
            wrong.append(f"{node.name} has {one} where this machine has {own}; they differ in {parts}")
    if wrong:
        return failure("node data", "; ".join([*wrong, *slow]), REMEDY)
    if slow:
        return warning("node data", "; ".join(slow), "a training will compare the data itself, before its first step")
    if own.refusal:
        remedy = refused(InputError(own.refusal))[1]
        return warning("node data", "this machine has no data to compare those of the nodes with", remedy)
    places = [f"in {one.place} on {node.name}" for node, one in seen.items() if one.place]
    missing = [node.name for node, one in seen.items() if not one.digests]
    said = [f"the same on {_counted(answers)}: {own}" if not missing else f"{own}; none yet on {', '.join(missing)}"]
    return ok("node data", "; ".join([*said, *places]))


def data_of(data: dict) -> Seen:
    """On a node: its data, or why a training would be refused there."""
    return seen_undecoded(ResolvedData(**data))


def differences_from(data: dict, text: bytes) -> str:
    """On a node: how its images differ from others, in words.

    Args:
        text: The others' `Contents.text`, compressed.
    """
    own = contents_here(ResolvedData(**data))
    return Differences.between(Contents(zlib.decompress(text)), own).in_words("only here", "only there")


def _differing(own: Seen, other: Seen) -> list[str]:
    """An archive that is still to be downloaded does not differ."""
    return differing(own, other) if own.refusal is None and other.refusal is None else []


def check_clocks(nodes: Sequence[Node]) -> Finding:
    return compared_clocks(ask(nodes, clock))


def clock() -> float:
    """On a node: the seconds since 1970."""
    return time.time()


def compared_clocks(answers: dict[Node, Answer]) -> Finding:
    """A node that did not answer says nothing here."""
    told = {node: answer for node, answer in answers.items() if not answer.fault}
    off = {node: offset(answer) for node, answer in told.items()}
    wrong = [
        f"{node.name} is at least {abs(one):.0f} s {'ahead of' if one > 0 else 'behind'} this machine"
        for node, one in off.items()
        if abs(one) > CLOCK_S
    ]
    if wrong:
        return warning(
            "clocks", "; ".join(wrong), "set them (chrony, ntpd): training needs no clock, but times in logs, in "
            "TensorBoard and of notices that a node will be taken away are read from it",
        )  # fmt: skip
    most = max(
        (abs(answer.value - at) for answer in told.values() for at in (answer.asked, answer.answered)), default=0
    )
    return ok("clocks", f"at most {most:.1f} s off this machine's")


def offset(answer: Answer) -> float:
    """By how many seconds a node's clock is ahead of this machine's, at least; below 0 if it is behind, and 0 if the
    time that the answer took may be all of the difference."""
    if answer.value > answer.answered:
        return answer.value - answer.answered
    return min(0.0, answer.value - answer.asked)


def _counted(answers: dict[Node, Answer]) -> str:
    return f"{len(answers)} nodes" if len(answers) != 1 else "the one node"
