"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A shared or slow machine must not turn a right answer into a failed test.
settings.register_profile("drspo", deadline=None)
settings.load_profile("drspo")

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT.parent / "shared" / "golden"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data beside the checkout: figures and tiny models made independently of us."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden data: {GOLDEN} does not exist (it lies beside the checkout, not in it)")
    return GOLDEN
