"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("drspo", "miniature", "generate", "eval", "pipeline", "dataset_builder", "train")
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}


def sources(repository: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((repository / package).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_no_file_is_longer_than_400_lines(repository):
    lengths = {
        str(path.relative_to(repository)): path.read_text().count("\n") for path in sources(repository)
    }
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_no_function_is_longer_than_60_lines(repository):
    long = [
        f"{path.relative_to(repository)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in sources(repository)
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


def test_no_module_has_a_name_that_says_nothing(repository):
    assert [str(path) for path in sources(repository) if path.stem in VAGUE] == []


def test_an_init_holds_a_docstring_and_registries_only(repository):
    offenders = []
    for package in PACKAGES:
        tree = ast.parse((repository / package / "__init__.py").read_text())
        assert ast.get_docstring(tree), f"{package}/__init__.py has no docstring"
        offenders += [f"{package}: line {node.lineno}" for node in tree.body[1:] if not is_registry(node)]
    assert offenders == []


def is_registry(node: ast.stmt) -> bool:
    """A dict literal (annotated or not), a version string, or a __future__ import."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    return isinstance(value, (ast.Dict, ast.Constant))


def test_public_functions_are_annotated_and_say_what_they_give(repository):
    offenders = []
    for path in sources(repository):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                place = f"{path.relative_to(repository)}:{node.lineno} {node.name}"
                if node.returns is None:
                    offenders.append(f"{place} has no return annotation")
                if not ast.get_docstring(node):
                    offenders.append(f"{place} has no docstring")
    assert offenders == []


def test_there_is_no_init_below_tests(repository):
    assert list((repository / "tests").rglob("__init__.py")) == []


def loaded_after(statement: str, folder: Path, repository: Path) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(repository)!r}); {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "drspo.cli, drspo.config, drspo.files.run, drspo.files.storage, drspo.log, drspo.doctor, "
            "drspo.demo.command",
            "torch ray fsspec",
        ),
        ("drspo.cli", "torch ray tyro rich yaml"),
        ("train", "ray torch"),
        ("train.command, train.config", "ray"),
        ("pipeline.records, pipeline.shards", "ray torch"),
        ("generate.canvas.windows", "torch ray"),
        ("generate, eval, miniature, pipeline, dataset_builder", "torch ray"),
        ("miniature.world", "torch ray"),
        ("dataset_builder.report.status", "torch ray"),
    ],
)
def test_an_import_loads_no_more_than_promised_and_leaves_no_file(tmp_path, repository, modules, absent):
    loaded = loaded_after(f"import {modules}", tmp_path, repository)
    assert loaded & set(absent.split()) == set()
    assert list(tmp_path.iterdir()) == []


def test_no_file_names_a_package_index(repository):
    files = [repository / name for name in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run")]
    for file in files:
        text = file.read_text()
        assert "index-url" not in text and "http" not in text, file


def test_the_import_rules_hold(repository):
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
