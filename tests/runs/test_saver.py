"""Saving in a background thread: what is written, when, and how its errors surface."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.limits import LIMIT_S
from volo.errors import Stopped, TrainingError
from volo.runs.saver import Saver


def failing(_) -> None:
    raise TrainingError("no space")


def test_what_is_written_is_the_state_as_it_was_when_it_was_saved():
    weight, may_write, written = torch.ones(3), threading.Event(), []

    def write(state) -> None:
        assert may_write.wait(LIMIT_S)
        written.append(state["layers"][0]["weight"].clone())

    with Saver() as saver:
        saver.save({"layers": [{"weight": weight}], "step": 1}, write)
        weight.zero_()
        may_write.set()
    assert torch.equal(written[0], torch.ones(3))


def test_a_save_waits_for_the_one_before():
    may_end, order = threading.Event(), []

    def slow(_) -> None:
        assert may_end.wait(LIMIT_S)
        order.append("first written")

    with Saver() as saver, ThreadPoolExecutor(1) as other:
        saver.save({}, slow)
        second = other.submit(saver.save, {}, lambda _: order.append("second written"))
        assert not second.done()
        may_end.set()
        second.result(LIMIT_S)
    assert order == ["first written", "second written"]


def test_a_tensor_keeps_its_layout_and_its_buffer_from_save_to_save():
    """An optimizer's moments must come back laid out as the weights are: fused updates take it for granted."""
    kernel, seen = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), []
    with Saver() as saver:
        for _ in range(2):
            saver.save([kernel], lambda state: seen.append(state[0]))
    assert seen[0].stride() == kernel.stride()
    assert seen[0].data_ptr() == seen[1].data_ptr() != kernel.data_ptr()


@pytest.mark.parametrize("found_by", ["check", "save", "leaving"])
def test_what_a_write_has_met_is_raised_in_training(found_by):
    with pytest.raises(TrainingError, match="no space"), Saver() as saver:
        saver.save({}, failing)
        if found_by == "save":
            saver.save({}, failing)
        elif found_by == "check":
            saver._pending.exception(LIMIT_S)
            saver.check()
            pytest.fail("nothing was raised")


def test_a_write_error_hides_a_stop_but_not_an_error_of_training():
    with pytest.raises(ZeroDivisionError), Saver(gives_way=(Stopped,)) as saver:
        saver.save({}, failing)
        raise ZeroDivisionError
    with pytest.raises(TrainingError), Saver(gives_way=(Stopped,)) as saver:
        saver.save({}, failing)
        raise Stopped(15)


def test_no_thread_is_left():
    with Saver() as saver:
        saver.save({}, lambda _: None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
