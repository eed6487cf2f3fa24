"""What a check finds: whether all is well, what it saw, and what to do where it is not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from volo.errors import InputError

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One line of `volo doctor`. A failure keeps a training from starting or its cluster from being safe."""

    status: Status
    check: str
    found: str
    remedy: str = ""


Check = Callable[[], Finding | Iterable[Finding]]


def ok(check: str, found: str) -> Finding:
    return Finding("ok", check, found)


def warning(check: str, found: str, remedy: str) -> Finding:
    return Finding("warning", check, found, remedy)


def failure(check: str, found: str, remedy: str) -> Finding:
    return Finding("failure", check, found, remedy)


def examine(checks: dict[str, Check]) -> list[Finding]:
    """The findings of all checks, in their order. One that refuses, or stumbles itself, is a failure of its name."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            found = check()
            for one in [found] if isinstance(found, Finding) else found:
                findings.append(one)
        except InputError as error:
            findings.append(failure(name, *refused(error)))
        except Exception as error:
            findings.append(failure(name, f"could not be checked ({type(error).__name__}: {error})", "see the message"))
    return findings


def refused(error: InputError) -> tuple[str, str]:
    """What was found and the remedy: the two halves of a refusal, which has them in that order."""
    found, _, remedy = str(error).rpartition("; ")
    return (found, remedy) if found else (remedy, "")
