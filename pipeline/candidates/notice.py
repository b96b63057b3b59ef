"""The notice that a node is to be taken away, as spot machines are given one: what a worker makes of it.

Ray sends nothing new to a node that drains, and ends nothing on it. So each worker looks for the notice: what
it is at it ends, and what it is given next it hands back by leaving, since Ray starts an actor that left
again on another node, with the work that was for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import ray
from ray._private.state import state

EXIT_DRAINED = 87
# Seconds between two looks, and without work until a worker leaves a node that drains.
_EVERY = 2.0
_IDLE = 5.0


def is_lost(node: str) -> bool:
    """Whether a node is not of the cluster any more."""
    return all(each["NodeID"] != node or not each["Alive"] for each in ray.nodes())


def is_drained_here() -> bool:
    """Whether this worker's node was told to drain; False where Ray does not answer."""
    with contextlib.suppress(Exception):
        return ray.get_runtime_context().get_node_id() in (state.get_draining_nodes() or {})
    return False


def before_termination(told: Callable[[], None]) -> None:
    """Have `told` called when this worker is told to end (SIGTERM, as `ray stop` sends it).

    Nothing else tells: Ray ends the process while the work is in another thread, and neither `finally` nor
    `atexit` runs.
    """
    then = signal.getsignal(signal.SIGTERM)
    if not callable(then) or threading.current_thread() is not threading.main_thread():
        return

    def end(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):
            told()
        then(number, frame)

    signal.signal(signal.SIGTERM, end)


def _leave() -> None:
    os._exit(EXIT_DRAINED)


class Notice:
    """One worker's look-out. `told` is called once, when the notice came; `leave` ends the worker."""

    def __init__(
        self,
        told: Callable[[], None],
        look: Callable[[], bool] = is_drained_here,
        leave: Callable[[], None] = _leave,
        every: float = _EVERY,
        idle: float = _IDLE,
    ) -> None:
        self.told, self.look, self.leave = told, look, leave
        self.every, self.idle = every, idle
        self.given = False
        self._at_work = threading.Lock()
        self._rested_since = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """One piece of work, ended whatever comes meanwhile; handed back if the notice came before."""
        with self._at_work:
            if self.given:
                self.leave()
            try:
                yield
            finally:
                self._rested_since = time.monotonic()

    def _watch(self) -> None:
        while not self.look():
            time.sleep(self.every)
        self.given = True
        self.told()
        while True:
            # What was made last may still be on its way.
            with self._at_work:
                if time.monotonic() - self._rested_since > self.idle:
                    self.leave()
                    return
            time.sleep(self.every)
