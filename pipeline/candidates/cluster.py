"""The Ray that a run uses: an existing cluster, or one of our own on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
import time

import ray

from drspo.errors import UserError
from pipeline.settings import ResourceSettings

log = logging.getLogger(__name__)


def connect(settings: ResourceSettings) -> None:
    """Join the cluster at RAY_ADDRESS, or start a Ray of our own. UserError when it cannot be reached."""
    if ray.is_initialized():
        return
    # Ray puts its own handler in place, which ends with 15 and without a word.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _connect(settings)
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _connect(settings: ResourceSettings) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    quiet: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        _start_own(settings, quiet)
        return
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"no Ray cluster answers: {first}",
            f"RAY_ADDRESS={address}",
            "Start one with `ray start --head`, submit with `ray job submit`, or use --executor local.",
        ) from error


def _knock(address: str, patience: float = 10.0) -> None:
    """Raise OSError when nothing listens at host:port: Ray itself tries for minutes before it says so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _start_own(settings: ResourceSettings, quiet: dict[str, object]) -> None:
    store = settings.object_store_mb * 1_000_000 or default_object_store()
    # Shares of CPUs are bookkeeping; a small machine still needs room for the pools and their feeders.
    cpus = max(4, os.cpu_count() or 1)
    # On a busy machine Ray's agents take longer than the 30 s that it allows them.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    try:
        ray.init("local", num_cpus=cpus, object_store_memory=store, include_dashboard=False, **quiet)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Ray did not start on this machine: {first}",
            hint="It may be overloaded. --executor local needs no Ray; the same command continues.",
        ) from error


def default_object_store() -> int:
    """Bytes for the object store: at most 30 % of memory, 90 % of what /dev/shm has free, and 2 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    return int(min(0.3 * memory, 0.9 * shutil.disk_usage(shared).free, 2 * 2**30))


def quiet_data() -> None:
    """Leave the telling to us: no bars, tables and plans of Ray Data; a block that fails fails the graph."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    # Ray would add an actor when 1.75 units are queued at each, which at one in flight never happens; and it
    # would end half of a pool, models and all, whenever the next block of prompts is late.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    # What fails is raised to us, and told once.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    logging.getLogger("ray").setLevel(logging.ERROR)
