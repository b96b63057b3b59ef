"""One run of several processes: how they were started, and what is said when one of them is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from drspo.errors import UserError

MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers of MPI say how many processes there are."""


def world_size(environment: Mapping[str, str]) -> int:
    """Processes that the launcher says it started; 0 where none says so."""
    said = environment.get("WORLD_SIZE") or next((environment[n] for n in MPI if n in environment), "")
    return int(said or 0)


def started_alone(environment: Mapping[str, str]) -> bool:
    """True for the one process that `accelerate launch --cpu --num_processes 2` starts: it leaves the number
    to MPI, and sets the address of a main process all the same."""
    alone = "ACCELERATE_USE_CPU" in environment and "MASTER_ADDR" in environment
    return alone and not world_size(environment)


def asked_for(command: Sequence[str]) -> int:
    """The number of processes in a command line of `accelerate launch`; 0 where it is not there."""
    for index, word in enumerate(command):
        name, equals, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            value = value if equals else "".join(command[index + 1 : index + 2])
            return int(value) if value.isdecimal() else 0
    return 0


def start_the_others(environment: Mapping[str, str], argv: Sequence[str]) -> None:
    """Becomes a torchrun of as many processes as accelerate was asked for on this CPU; does nothing
    elsewhere, or where the number is not on its command line (a configuration file of accelerate's)."""
    if not started_alone(environment):
        return
    import psutil

    count = asked_for(psutil.Process(os.getppid()).cmdline())
    if count < 2:
        return
    # The launcher's address and port go, since torchrun takes its own.
    own = {k: v for k, v in environment.items() if k not in ("MASTER_ADDR", "MASTER_PORT")}
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m", "train"]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *run, *argv], own)


LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Timed out", "timeout")
"""What the libraries between processes say when one does not answer."""


@contextmanager
def lost_peers_named(environment: Mapping[str, str]) -> Iterator[None]:
    """Turns what gloo or NCCL raise when another process is gone or silent into a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        if world_size(environment) < 2 or not any(word in str(error) for word in LOST):
            raise
        hint = "see what it said last; with all of them back, --resume goes on from the newest checkpoint"
        what = "another process of this run is gone, or has not answered for group_timeout"
        raise UserError(f"{what}: {str(error).splitlines()[0]}", "--group-timeout", hint) from error
