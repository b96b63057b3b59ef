"""More processes of a benchmark on this machine, each on a GPU of its own where there are any."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def helpers(argv: list[str], workers: int) -> Iterator[None]:
    """Starts `workers` - 1 processes that join in (0: one per GPU), and waits for them at the end.

    Ours takes the first GPU. One that fails says so itself and costs nothing: what it left is taken over.
    """
    count = workers or max(1, _gpus())
    started = [_start(argv, number) for number in range(1, count)]
    if started and _gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible()[0]
    try:
        yield
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.wait()


def _start(argv: list[str], number: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if _gpus():
        environment["CUDA_VISIBLE_DEVICES"] = _visible()[number % _gpus()]
    command = [sys.executable, "-m", "eval", "worker", *argv]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def _visible() -> list[str]:
    """The names of the GPUs that this process may use."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return told.split(",") if told else [str(number) for number in range(_gpus())]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
