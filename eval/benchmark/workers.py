"""More processes of a benchmark on this machine, each on a GPU of its own where there are any."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from drspo.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
PROGRAM = ("-m", "eval", "worker")


@contextmanager
def helpers(argv: Sequence[str], workers: int, gpus: Sequence[str]) -> Iterator[None]:
    """Starts `workers` - 1 processes that join in (0: one for each of `gpus`), and waits for them at the end.

    Each sees one GPU alone, ours the first. One that fails says so itself and costs nothing: what it left is
    taken over.
    """
    mine, *theirs = pinned(workers, gpus)
    started = [_start(argv, gpu) for gpu in theirs]
    if started and mine:
        os.environ[VISIBLE] = mine
    try:
        yield
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.wait()


def pinned(workers: int, gpus: Sequence[str]) -> list[str]:
    """The GPU of each process, ours first, empty without any; more processes than GPUs take turns."""
    count = workers or max(1, len(gpus))
    return [gpus[number % len(gpus)] if gpus else "" for number in range(count)]


def gpus_for(device: str, workers: int) -> list[str]:
    """The GPUs that processes on `device` share; UserError where it is one and they are several."""
    kind, colon, _ = device.partition(":")
    if kind not in ("auto", "cuda"):
        return []
    if colon:
        if workers != 1:
            hint = f"--device {kind}; {VISIBLE} says which GPUs they may use"
            raise UserError(f"several workers cannot share {device}", "--workers", hint)
        return []
    import torch

    count, told = torch.cuda.device_count(), os.environ.get(VISIBLE, "")
    return told.split(",")[:count] if told else [str(number) for number in range(count)]


def _start(argv: Sequence[str], gpu: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **({VISIBLE: gpu} if gpu else {})}
    return subprocess.Popen([sys.executable, *PROGRAM, *argv], env=environment, stdout=subprocess.DEVNULL)
