"""The configuration loader: YAML and flags through one parser, and errors that teach."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import tyro
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from drspo import config
from drspo.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    source: str = ""
    """A run folder or a Hub id."""
    sizes: tuple[int, ...] = (1, 2)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    shuffle: bool = True
    """Shuffle before each epoch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    prompt: tyro.conf.Positional[str] = ""
    data: Data = dataclasses.field(default_factory=Data)
    lr: float = 1e-4
    stage: Literal["blueprint", "highres"] = "blueprint"
    max_steps: int = -1
    plan: bool = False
    out: str = ""


def load(*argv: str) -> Settings:
    return config.load(Settings, argv, package="train", prog="test")


def yaml_file(folder: Path, text: str, name: str = "my.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_scalars_of_a_file_get_the_type_of_their_field(tmp_path):
    path = yaml_file(
        tmp_path,
        "lr: 1e-5\nout: 12\nplan: on\ndata:\n  source: 'true'\n  sizes: [3, 4]\n  weights: {a: 1, b: 2e3}\n",
    )
    loaded = load("--config", path)
    assert loaded.lr == 1e-5 and isinstance(loaded.lr, float)
    assert loaded.out == "12" and loaded.plan is True and loaded.data.source == "true"
    assert loaded.data.sizes == (3, 4) and loaded.data.weights == {"a": 1.0, "b": 2000.0}


def test_flags_win_over_files_and_later_files_over_earlier_ones(tmp_path):
    first = yaml_file(tmp_path, "lr: 1\nout: a\ndata: {source: x, shuffle: false}\n", "first.yaml")
    second = yaml_file(tmp_path, "lr: 2\ndata: {source: y}\n", "second.yaml")
    loaded = load("--config", first, f"--config={second}", "--lr", "3", "--data.shuffle")
    assert (loaded.lr, loaded.out, loaded.data.source, loaded.data.shuffle) == (3.0, "a", "y", True)


def test_a_list_in_a_file_does_not_swallow_the_users_positional(tmp_path):
    path = yaml_file(tmp_path, "out: x\ndata: {sizes: [5, 6]}\n")
    loaded = load("--config", path, "a lighthouse")
    assert loaded.prompt == "a lighthouse" and loaded.data.sizes == (5, 6)


def test_values_that_look_like_flags_survive(tmp_path):
    loaded = load("--config", yaml_file(tmp_path, "out: --weird\nmax_steps: -7\nlr: -1e-3\n"))
    assert (loaded.out, loaded.max_steps, loaded.lr) == ("--weird", -7, -1e-3)


@pytest.mark.parametrize("spelling", [("--plan",), ("--plan", "True"), ("--plan=true",)])
def test_a_switch_may_be_spelled_with_or_without_its_value(spelling):
    assert load(*spelling).plan is True
    assert load(*spelling, "--no-plan").plan is False


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("data:\n  source: x\n  sorce: y\n", 3, "Did you mean 'source'?"),
        ("lr: 1\nmax-steps: 3\n", 2, "Did you mean 'max_steps'?"),
        ("out: x\nlr: fast\n", 2, "lr does not accept 'fast'"),
        ("stage: middle\n", 1, "one of blueprint, highres"),
        ("max_steps: 1.5\n", 1, "It takes int"),
        ("lr: [1, 2]\n", 1, "lr is one value, not a list"),
        ("\ndata: 3\n", 2, "data must be a mapping"),
        ("lr:\n", 1, "lr has no value"),
        ("lr: 1\nlr: 2\n", 2, "given twice"),
        ("plan: 3\n", 1, "It takes true or false"),
        ("data:\n  source: [\n", 3, "not valid YAML"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_the_nearest_name(tmp_path, capsys, text, line, says):
    path = yaml_file(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load("--config", path)
    assert says in str(caught.value)
    assert f"{path}:{line}" in str(caught.value)
    assert capsys.readouterr().err == "", "the parser's own message must not be printed beside ours"


def test_a_mistyped_flag_ends_with_two_and_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as caught:
        load("--data.sorce", "x")
    assert caught.value.code == 2
    assert "--data.source" in capsys.readouterr().err


def test_a_missing_preset_lists_the_nearest(tmp_path, monkeypatch):
    presets = tmp_path / "shipped" / "presets"
    presets.mkdir(parents=True)
    (tmp_path / "shipped" / "__init__.py").write_text("")
    (presets / "miniature.yaml").write_text("lr: 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert config.load(Settings, ["--config", "miniature"], package="shipped", prog="t").lr == 0.5
    with pytest.raises(UserError, match="Did you mean 'miniature'"):
        config.load(Settings, ["--config", "miniture"], package="shipped", prog="t")
    with pytest.raises(UserError, match="no configuration file"):
        config.load(Settings, ["--config", "miniature.yaml"], package="shipped", prog="t")


def test_config_without_a_value_is_refused():
    with pytest.raises(UserError, match="needs a preset's name"):
        load("--config", "--plan")


def test_help_names_the_general_flags(capsys):
    with pytest.raises(SystemExit) as caught:
        load("--help")
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert "--print-config" in said and "A run folder or a Hub id." in said


def test_the_printed_configuration_reproduces_itself(tmp_path, capsys):
    asked = ("a prompt: with colon", "--lr", "1e-5", "--plan", "--data.weights", "a", "2")
    with pytest.raises(SystemExit) as caught:
        load(*asked, "--print-config")
    assert caught.value.code == 0
    assert load("--config", yaml_file(tmp_path, capsys.readouterr().out)) == load(*asked)


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)


@examples(max_examples=50)
@given(
    prompt=TEXT,
    out=TEXT,
    lr=st.floats(allow_nan=False, allow_infinity=False),
    sizes=st.lists(st.integers(-(10**9), 10**9), max_size=4).map(tuple),
    plan=st.booleans(),
    shuffle=st.booleans(),
)
def test_whatever_is_dumped_is_loaded_back_equal(tmp_path_factory, prompt, out, lr, sizes, plan, shuffle):
    settings = Settings(prompt=prompt, out=out, lr=lr, plan=plan, data=Data(sizes=sizes, shuffle=shuffle))
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(config.dump(settings))
    assert load("--config", str(path)) == settings
    assert config.from_dict(Settings, config.to_dict(settings)) == settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several:
    prompt: tyro.conf.Positional[tuple[str, ...]] = ()


def test_positionals_of_a_printed_configuration_come_back(tmp_path):
    for prompts in [(), ("a castle",), ("a castle", "a pine: at dawn")]:
        path = yaml_file(tmp_path, config.dump(Several(prompt=prompts)))
        assert config.load(Several, ["--config", path], package="train", prog="t").prompt == prompts


def test_a_hash_depends_on_values_and_not_on_order_or_kind_of_container():
    assert config.config_hash({"a": 1, "b": (2, 3)}) == config.config_hash({"b": [2, 3], "a": 1})
    assert config.config_hash(Settings()) == config.config_hash(config.to_dict(Settings()))
    assert config.config_hash(Settings()) != config.config_hash(Settings(lr=1e-5))
    assert len(config.config_hash(Settings(), length=20)) == 20


def test_an_unknown_field_of_a_dict_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'max_steps'"):
        config.from_dict(Settings, {"max_step": 3})
