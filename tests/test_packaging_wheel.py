"""What the wheel holds: everything of the packages and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("packaging_wheel")

PACKAGES = ("drspo", "miniature", "generate", "eval", "pipeline", "dataset_builder", "train")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, repository) -> zipfile.ZipFile:
    """The wheel named by DRSPO_WHEEL, else one that is built here from the files that git knows."""
    if path := os.environ.get("DRSPO_WHEEL"):
        return zipfile.ZipFile(path)
    copy, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked(repository):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((repository / name).read_bytes())
    code = "import sys; from setuptools import build_meta as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=copy, check=True, capture_output=True, timeout=250
    )
    return zipfile.ZipFile(next(target.glob("*.whl")))


def tracked(repository: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True, check=True)
    wanted = (*(f"{package}/" for package in PACKAGES), "pyproject.toml", "README.md", "LICENSE")
    names = [name for name in listed.stdout.splitlines() if name.startswith(wanted)]
    return [name for name in names if (repository / name).exists()]


def test_the_wheel_holds_exactly_what_the_packages_hold(wheel, repository):
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {name for name in tracked(repository) if name.startswith(tuple(f"{p}/" for p in PACKAGES))}
    assert sorted(expected - shipped) == [], "missing in the wheel"
    assert sorted(shipped - expected) == [], "should not be in the wheel"


def test_the_wheel_brings_presets_templates_and_types(wheel):
    names = set(wheel.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"train/presets/miniature.yaml", "dataset_builder/presets/miniature.yaml"} <= names
    assert "drspo/demo/templates/demo.html.jinja" in names


def test_the_wheel_says_what_it_is(wheel):
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata and "\nRequires-Python: >=3.11\n" in metadata
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "drspo = drspo.cli:entry" in wheel.read(entry).decode()
