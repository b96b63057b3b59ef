"""Fixtures for all tests."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from drspo import consent

# Before anything loads torch: some results are compared to the bit, also with those of processes that tests
# start, and rounding depends on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared or slow machine must not turn a right answer into a failed test, nor must the luck of a draw: every
# run tries the same examples. `--hypothesis-profile=search` draws new ones.
patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("drspo", derandomize=True, **patient)
settings.register_profile("search", **patient)
settings.load_profile("drspo")

ROOT = Path(__file__).resolve().parent.parent

# Modules that wear `xdist_group` go to one process whole: what their fixtures start is started once.


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that wears `gpu` is skipped, with the reason, where torch sees no CUDA device."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch sees none here")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recorded runs and tiny checkpoints, made independently of us (see its README)."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 stand-in on loopback, one for all tests of a process.

    fsspec keeps one client for equal arguments, and the address comes from the environment: a second
    server in the same process would be asked for at the first one's address.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def no_handler_outlives_its_test() -> Iterator[None]:
    """Programs run in this process add log handlers that hold the captured streams of their test."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture(autouse=True)
def no_consent_outlives_its_test() -> Iterator[None]:
    """What one test lets be imported, the next has to allow for itself."""
    before = copy.deepcopy(consent._STATE)
    yield
    consent._STATE = before
