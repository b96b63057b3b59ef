"""A worker on a node that is to be taken away ends what it is at and leaves before anything else begins."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

pytest.importorskip("ray")


class Left(BaseException):
    """Instead of the end of the process."""


def begun(told: list[str], came: threading.Event, leave: Callable[[], None], idle: float) -> object:
    from pipeline.candidates.notice import Notice

    return Notice(lambda: told.append("told"), came.is_set, leave, every=0.01, idle=idle)


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise TimeoutError


def test_the_work_under_way_is_ended_and_the_next_handed_back() -> None:
    told: list[str] = []
    came = threading.Event()

    def leave() -> None:
        raise Left

    notice = begun(told, came, leave, idle=1000.0)
    with notice.work():
        came.set()
        wait_for(lambda: told)
        ended = True
    assert ended and told == ["told"]
    with pytest.raises(Left), notice.work():
        raise AssertionError("begun all the same")


def test_a_worker_without_work_leaves_by_itself_but_none_that_works() -> None:
    told: list[str] = []
    came, left = threading.Event(), threading.Event()
    notice = begun(told, came, left.set, idle=0.1)
    with notice.work():
        came.set()
        wait_for(lambda: told)
        assert not left.wait(0.3)
    assert left.wait(10)


def test_nobody_leaves_without_a_notice() -> None:
    left = threading.Event()
    notice = begun([], threading.Event(), left.set, idle=0.0)
    with notice.work():
        pass
    assert not left.wait(0.2)
