"""Runs a command and ends its process: which error, and which signal, ends with which exit code and message."""

import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from volo.errors import ExitCode, InferenceError, InputError, OutOfRetries, Stopped, TrainingError
from volo.log import show_log
from volo.signals import interrupted_by, interrupting_signals, received_signal
from volo.streams import kept_running
from volo.teardown import end_process

RANK_0_FIRST_S = 5.0
MAX_ARGUMENT = 4096  # as many as the longest path


def run_job(module: str, argv: Sequence[str] | None = None) -> None:
    """Runs the main of a command's module on its arguments, by default the command line's, and ends the process with
    the documented exit code. Importing the module takes a second, in which the command can be stopped already."""
    with kept_running():
        show_log()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # file names may be no text, or none of this terminal's
        end_process(exit_code(lambda argv: import_module(module).main(argv), sys.argv[1:] if argv is None else argv))


def exit_code(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs a command's main. Returns one of ExitCode, or 128 + the signal that stopped it."""
    with interrupting_signals() as received:
        return _outcome(main, argv, received)


def _outcome(main: Callable[[Sequence[str]], None], argv: Sequence[str], received: Callable[[], int]) -> int:
    """Says what went wrong, if anything. `received` returns the number of the signal that interrupted, or 0."""
    try:
        _check_lengths(argv)
        main(argv)
    except InputError as error:
        _let_rank_0_speak_first()
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.WRONG_INPUT
    except TrainingError as error:
        print(f"{error.heading}: {error}", file=sys.stderr)
        return ExitCode.OUT_OF_RETRIES if isinstance(error, OutOfRetries) else ExitCode.WORK_FAILED
    except InferenceError as error:
        print(f"{error.heading}: {error}", file=sys.stderr)
        return ExitCode.WORK_FAILED
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        number = received() or received_signal() or signal.SIGINT
        print(interrupted_by(number), file=sys.stderr)
        return 128 + number
    except Exception:
        traceback.print_exc()
        return ExitCode.UNFORESEEN
    return ExitCode.DONE


def _check_lengths(argv: Sequence[str]) -> None:
    for word in argv:
        if len(word) > MAX_ARGUMENT:
            raise InputError(f"an argument must have at most {MAX_ARGUMENT:,} characters, got {len(word):,}: {word}")


def _let_rank_0_speak_first() -> None:
    """Under torchrun every rank refuses the same input, and the first to exit ends the others. Let it be rank 0, so
    that one message is printed; another rank reports its own refusal if rank 0 has none."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(RANK_0_FIRST_S)
