"""The result of a check: whether it passed, what it found, and what to do if it did not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from volo.errors import InputError

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One line of `volo doctor`. A failure means that training could not start or that its cluster is not safe."""

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
    """The findings of all checks, in order. A check that raises is a failure under its name."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            found = check()
            for one in [found] if isinstance(found, Finding) else found:
                findings.append(one)
        except InputError as error:
            findings.append(failure(name, *refused(error)))
        except OSError as error:
            reason = f"{error.filename or 'a file'} cannot be used ({error.strerror or error})"
            findings.append(failure(name, reason, "check its permissions, and those of the folders above it"))
        except Exception as error:
            findings.append(failure(name, f"could not be checked ({type(error).__name__}: {error})", "see the message"))
    return findings


def refused(error: InputError) -> tuple[str, str]:
    """The two halves of an error message: what was found, and the remedy."""
    found, _, remedy = str(error).rpartition("; ")
    return (found, remedy) if found else (remedy, "")
