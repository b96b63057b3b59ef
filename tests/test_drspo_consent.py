"""A name of code that stands in a file imports nothing; the command line's does."""

from __future__ import annotations

import contextlib
import json
import sys

import pytest
from PIL import Image

from drspo import cli, consent, registry
from drspo.errors import UserError
from generate.program.metadata import encode
from tests.test_generate_metadata import record

MODULE = "evil_module"
NAMES = {
    "generate": "generate.program.command:main",
    "train": "train.command:main",
    "build": "dataset_builder.command:main",
    "eval": "eval.command:main",
}


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """A function that says whether the plugin's module was imported."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Method: pass\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield lambda: (tmp_path / "ran").exists()
    sys.modules.pop(MODULE, None)


def evil_scroll(folder):
    path = folder / "evil.png"
    evil = record(method=f"{MODULE}:Method", settings={}, loras={})
    path.write_bytes(encode(Image.new("RGB", (64, 16)), evil, ".png"))
    return ["--like", str(path), "--out", str(folder / "again.png")]


def yaml_file(folder, text):
    path = folder / "shared.yaml"
    path.write_text(text)
    return ["--config", str(path)]


def training(folder, text):
    data = ["--data.source", str(folder / "none"), "--out", str(folder / "lora")]
    return [*yaml_file(folder, text), "--model", "miniature", *data]


def resumed(folder):
    run = folder / "run"
    run.mkdir()
    # A path, since a name would be asked of the Hub, again and again where there is no network.
    source = folder / "nowhere"
    (run / "config.yaml").write_text(f"loss:\n  name: {MODULE}:Method\ndata:\n  source: {source}\n")
    manifest = {"program": "train", "config_hash": "0", "config": {}, "phases": {}}
    (run / "run.json").write_text(json.dumps(manifest))
    return ["--resume", str(run)]


def builder(folder, text):
    return ["--config", "miniature", *yaml_file(folder, text), "--out", str(folder / "run")]


FILES = {
    "a scroll's record": lambda f: ("generate", evil_scroll(f)),
    "a YAML of generate": lambda f: (
        "generate",
        ["a castle", *yaml_file(f, f"method: {MODULE}:Method\n"), "--out", str(f / "x.png")],
    ),
    "a YAML of train": lambda f: ("train", training(f, f"loss:\n  name: {MODULE}:Method\n")),
    "a run to resume": lambda f: ("train", resumed(f)),
    "a builder's generator": lambda f: (
        "build",
        builder(f, f"candidates:\n  generators: [sdxl, '{MODULE}:Method']\n"),
    ),
    "a builder's scorer": lambda f: (
        "build",
        builder(f, f"scoring:\n  scorers: ['near={MODULE}:Method']\npairs:\n  weights: []\n"),
    ),
    "a builder's filter": lambda f: ("build", builder(f, f"filter:\n  filters: ['{MODULE}:Method']\n")),
    "a builder's expander": lambda f: ("build", builder(f, f"expand:\n  expander: {MODULE}:Method\n")),
    "a benchmark's method": lambda f: (
        "eval",
        [*yaml_file(f, f"methods: [multidiffusion, '{MODULE}:Method']\n"), "--out", str(f / "run")],
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_plugin_that_only_a_file_names_is_refused_before_anything_is_written(
    kind, tmp_path, imported, capsys
):
    program, argv = FILES[kind](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.execute(NAMES[program], argv) == cli.THEIRS
    said = capsys.readouterr().err
    assert f"'{MODULE}:Method' is code from outside" in said and f"--allow-plugins {MODULE}" in said
    assert "Traceback" not in said and not imported()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", FILES)
def test_a_plugin_that_the_command_line_allows_is_imported(kind, tmp_path, imported):
    program, argv = FILES[kind](tmp_path)
    # What comes after the import differs: the stand-in is no generator and no loss.
    with contextlib.suppress(SystemExit):
        cli.execute(NAMES[program], [*argv, "--allow-plugins", MODULE])
    assert imported()


def test_a_plugin_as_an_options_value_needs_no_other_flag(imported):
    for spelled in (
        ["--method", f"{MODULE}:Method"],
        [f"--method={MODULE}:Method"],
        ["--scorers", "seam", f"near={MODULE}:Method"],
    ):
        consent._STATE = consent._State()
        assert consent.take([*spelled, "--seed", "1"]) == [*spelled, "--seed", "1"]
        assert registry.lookup({}, f"{MODULE}:Method", "method").__name__ == "Method"
    assert imported()


def test_a_prompt_is_no_consent(imported):
    consent.take([f"{MODULE}:Method", "--seed", "1"])
    with pytest.raises(UserError):
        registry.lookup({}, f"{MODULE}:Method", "method")
    assert not imported()


def test_one_plugin_of_a_module_does_not_allow_another(imported):
    consent.take(["--method", f"{MODULE}:Method"])
    with pytest.raises(UserError, match="only a file names"):
        registry.lookup({}, f"{MODULE}:os.system", "method")


def test_a_module_allows_what_lies_below_it_and_nothing_beside_it():
    consent.allow("mine")
    assert consent.allows("mine:A") and consent.allows("mine.sub:A")
    assert not consent.allows("mine2:A") and not consent.allows("other.mine:A")


@pytest.mark.parametrize("name", ["os:system", "s3://bucket/run:x", "a b:c", ":x", "drspo.cli:os.system"])
def test_no_other_name_with_a_colon_is_looked_up(name):
    with pytest.raises(UserError):
        registry.lookup({}, name, "method")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which modules"),
        (["a lighthouse"], "no module's name"),
        (["no_such_module_here"], "no module 'no_such_module_here'"),
    ],
)
def test_the_flag_says_what_it_takes(words, says):
    with pytest.raises(UserError, match=says):
        consent.take(["--allow-plugins", *words])


def test_the_flag_leaves_the_rest_of_the_line_as_it_was():
    line = ["a castle", "--seeds", "0", "-1", "--out=x.png", "--plan"]
    for place in range(2, len(line)):
        if line[place].startswith("--"):
            cut = [*line[:place], "--allow-plugins", "json", *line[place:]]
            assert consent.take(cut) == line


def test_workers_are_told_what_the_driver_allows(tmp_path):
    from dataset_builder.build import stage_spec
    from tests.building import FAKES, fake_config

    consent._STATE = consent._State()
    spec = stage_spec(fake_config(tmp_path, tmp_path / "run"), str(tmp_path / "run"))
    assert spec.plugins == (FAKES,)


@pytest.mark.parametrize(
    "reference", ["package:evil_module/x", "package:evil_module.sub/x", "package:miniature/../tests"]
)
def test_weights_in_a_package_are_found_without_importing_it(reference, imported):
    with pytest.raises(UserError):
        registry.package_folder(reference)
    assert not imported()
    assert (registry.package_folder("package:miniature/weights") / "sdxl").is_dir()
