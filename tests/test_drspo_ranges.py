"""Every number has a range, which is checked before anything is computed or written."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder.config import BuildConfig
from drspo import cli, config
from drspo.demo.command import DemoConfig
from drspo.errors import UserError
from drspo.ranges import Natural, Pixels, Range, Share, check_ranges, numbers, undeclared
from eval.config import EvalConfig
from generate.program.config import Config as GenerateConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: Share = 0.5
    sizes: tuple[Natural, ...] = ()
    loose: float = 0.0
    kind: Literal["a", "b"] = "a"
    on: bool = True


@dataclass(frozen=True, kw_only=True)
class Outer:
    height: Pixels = 128
    own: Annotated[int, Range(1, 10, also=(-1,))] = -1
    inner: Inner = field(default_factory=Inner)


def load(*argv):
    return config.load(Outer, argv, package="train", prog="test")


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--height", "100", "a multiple of 8 from 8 up to 1048576. The nearest: 96 and 104."),
        ("--height", "0", "from 8"),
        ("--own", "0", "a number from 1 up to 10, or -1"),
        ("--inner.share", "nan", "from 0 up to 1"),
        ("--inner.share", "1.0001", "from 0 up to 1"),
        ("--inner.loose", "inf", "that is finite"),
        ("--inner.sizes", "-1", "from 0"),
    ],
)
def test_a_number_out_of_its_range_names_the_flag_and_the_range(flag, value, says):
    with pytest.raises(UserError) as caught:
        load(f"{flag}={value}")
    assert says in str(caught.value) and flag in str(caught.value) and value in str(caught.value)


def test_a_number_of_a_file_names_file_and_line(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("height: 104\ninner:\n  share: .nan\n")
    with pytest.raises(UserError, match=r"my\.yaml:3"):
        load("--config", str(path))
    assert load("--config", str(path), "--inner.share", "0.1").inner.share == 0.1
    with pytest.raises(UserError, match=r"--inner\.share"):
        load("--config", str(path), "--inner.share", "2")


@given(st.floats())
def test_nothing_that_is_no_number_is_in_any_range(value):
    for allowed in (Range(), Range(0, 1), Range(-1e9, 1e9, also=(math.inf,))):
        assert not allowed.holds(value) or math.isfinite(value)


@pytest.mark.parametrize(
    "values",
    [
        {"height": "128"},
        {"height": True},
        {"height": 1.5},
        {"inner": [1]},
        {"inner": {"share": "much"}},
        {"inner": {"share": math.inf}},
        {"inner": {"sizes": 3}},
        {"inner": {"sizes": [1, "2"]}},
        {"inner": {"kind": "c"}},
        {"inner": {"kind": {}}},
        {"inner": {"on": 1}},
        {"own": 11},
        {"widht": 1},
    ],
)
def test_values_of_a_file_are_of_their_fields_type_and_range(values):
    with pytest.raises(UserError):
        config.from_dict(Outer, values)


def test_what_was_written_comes_back():
    asked = Outer(height=256, inner=Inner(sizes=(1, 2), share=1.0, kind="b"))
    assert config.from_dict(Outer, config.to_dict(asked)) == asked


@pytest.mark.parametrize("cls", [BuildConfig, DemoConfig, EvalConfig, GenerateConfig])
def test_every_number_of_the_configuration_declares_its_range(cls):
    assert list(undeclared(cls)) == []
    check_ranges(cls())
    assert len(list(numbers(cls()))) >= 4


def test_a_field_without_a_range_is_found():
    assert list(undeclared(Outer)) == ["inner.loose"]


PROGRAMS = {
    "build": "dataset_builder.command:main",
    "demo": "drspo.demo.command:main",
    "eval": "eval.command:main",
}
WRONG = [
    ("build", "--candidates.height", "100"),
    ("build", "--candidates.steps", "0"),
    ("build", "--candidates.guidance-scale", "nan"),
    ("build", "--prompts.limit", "-5"),
    ("build", "--pairs.min-margin", "nan"),
    ("build", "--pairs.weights", "aesthetic=nan"),
    ("build", "--candidates.generators", "foo"),
    ("build", "--scoring.scorers", "foo"),
    ("build", "--filter.filters", "foo"),
    ("build", "--expand.expander", "foo"),
    ("build", "--expand.words", "foo"),
    ("build", "--prompts.source", "no-such-file.txt"),
    ("build", "--candidates.options", "mad.treshold=1"),
    ("build", "--candidates.options", "mad.threshold=-1000000000000000000"),
    ("build", "--llm.timeout", "inf"),
    ("eval", "--pictures.steps", "0"),
    ("eval", "--pictures.guidance-scale", "nan"),
    ("eval", "--pictures.height", "100"),
    ("demo", "--seed", "-1"),
    ("demo", "--prompt", ""),
    ("demo", "--prompts", "0"),
]


@pytest.mark.parametrize(("program", "flag", "value"), WRONG)
def test_a_mistake_costs_nothing_and_leaves_nothing(program, flag, value, tmp_path, capsys):
    argv = [f"{flag}={value}", "--out", str(tmp_path / "run")]
    if program == "build":
        argv = ["--config", "miniature", "--executor", "local", *argv]
    assert cli.execute(PROGRAMS[program], argv) == cli.THEIRS
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_the_frozen_defaults_are_in_range():
    for cls in (BuildConfig, DemoConfig, EvalConfig):
        for key, value, allowed in numbers(cls()):
            assert allowed.holds(value), (key, dataclasses.asdict(cls()))


# --- a folder without a result takes a corrected configuration


def test_a_folder_without_a_result_takes_a_corrected_configuration(tmp_path):
    from drspo.files.run import CONFIG, RunDir

    run = RunDir(tmp_path / "run")
    assert run.start("train", Outer(), "one") is False
    (tmp_path / "run/log.txt").write_text("a fault\n")
    assert run.start("train", Outer(height=256), "two") is False
    assert run.manifest()["config_hash"] == "two" and b"256" in run.read(CONFIG)
    assert run.start("train", Outer(height=256), "two") is True
    run.write("metrics.jsonl", b"{}\n")
    with pytest.raises(UserError, match="another configuration"):
        run.start("train", Outer(), "one")
    with pytest.raises(UserError, match="a run of 'train', not of 'eval'"):
        run.start("eval", Outer(), "two")


def test_prompts_outlive_a_correction_of_the_images(tmp_path):
    """The language model was paid for them; the plan is made anew."""
    from dataset_builder.build import Build
    from pipeline.ideas.blocks import Texts
    from pipeline.local import run_units
    from tests.building import build, fake_config, with_candidates

    def out_of_memory(work, spec):
        if not isinstance(work, Texts):
            raise UserError("the model does not fit")
        yield from run_units(work, spec)

    asked = fake_config(tmp_path, tmp_path / "run")
    large = with_candidates(asked, height=64)
    with pytest.raises(UserError, match="does not fit"):
        Build(large, out_of_memory)()
    before = (tmp_path / "run/prompts.parquet").stat().st_mtime_ns
    assert build(asked).made_now == 6
    assert (tmp_path / "run/prompts.parquet").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another configuration"):
        build(large)
