"""What must not be left half done is done, whatever signals come meanwhile."""

import os
import signal

import pytest

from volo.signals import interrupting_signals, to_its_end


@pytest.mark.parametrize(
    "numbers", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT], [signal.SIGINT] * 3], ids=str
)
def test_work_is_done_to_its_end_though_signals_come_in_the_midst_of_it(numbers):
    left, steps = list(numbers), list[str]()

    def work() -> None:
        steps[:] = ["begun"]
        while left:
            os.kill(os.getpid(), left.pop())
        steps.append("done")

    with interrupting_signals():
        to_its_end(work)
        assert steps == ["begun", "done"]
        with pytest.raises(KeyboardInterrupt):  # as before
            signal.raise_signal(signal.SIGINT)


def test_an_error_in_such_work_is_raised():
    with pytest.raises(ZeroDivisionError):
        to_its_end(lambda: 1 // 0)
