"""Numbers are taken once, one metric in memory at a time; a picture that fails has a row with its reason."""

import io
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drspo import consent
from drspo.files.run import RunDir
from eval.backbones.clip_open import OpenClip
from eval.backbones.embeddings import load_backbone
from eval.benchmark import suite
from eval.benchmark.scores import ScoreStore
from eval.benchmark.suite import cells
from eval.benchmark.suite import take_numbers as take
from eval.config import EvalConfig, Judges, Pictures
from eval.judges import build_judges

LOADED: list[weakref.ref] = []
TOGETHER: list[int] = []


class Network:
    """Something large."""


class Grey:
    """A metric that loads a network late, counts the pictures it sees, and how many networks live."""

    name, unit, higher_is_better, view, checkpoint = "grey", "grey", True, "whole", "none"

    def __init__(self, weights="1"):
        self.checkpoint_hash, self.network, self.shown = weights, None, 0

    def score(self, images, prompts):
        if self.network is None:
            self.network = Network()
            LOADED.append(weakref.ref(self.network))
        TOGETHER.append(sum(1 for network in LOADED if network() is not None))
        self.shown += len(images)
        return [float(np.asarray(image).mean()) for image in images]

    def release(self):
        self.network = None


class Blue(Grey):
    def score(self, images, prompts):
        super().score(images, prompts)
        return [float("nan") for _ in images]


def judges_of(config, run):
    return build_judges(config.judges, model="miniature", device="cpu", cache=run.url("cache"))


def take_numbers(config, run, judges=None):
    return take(config, run, judges or judges_of(config, run))


@pytest.fixture
def config(tmp_path):
    LOADED.clear(), TOGETHER.clear()
    consent.allow(__name__)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\n")
    return EvalConfig(
        methods=("multidiffusion", "sdxl"), out=str(tmp_path / "run"), model="miniature", device="cpu",
        pictures=Pictures(prompts=(str(prompts),), seeds=2),
        judges=Judges(scorers=(f"a={__name__}:Grey", f"b={__name__}:Grey"), batch=4),
    )  # fmt: skip


@pytest.fixture
def run(config):
    folder = RunDir(config.out)
    for number, cell in enumerate(cells(config)):
        data = io.BytesIO()
        Image.new("RGB", (8, 4), (10 * number,) * 3).save(data, "PNG")
        folder.write(cell.name, data.getvalue())
    return folder


def test_one_metric_is_in_memory_at_a_time(config, run):
    take_numbers(config, run)
    assert len(LOADED) == 2 and set(TOGETHER) == {1}


def test_a_second_run_takes_no_number_again(config, run):
    first = take_numbers(config, run)
    judges = judges_of(config, run)
    assert take_numbers(config, run, judges) == first
    assert {metric.shown for metric in judges.values()} == {0}


def test_a_run_that_was_cut_short_takes_only_what_is_missing(config, run):
    first = take_numbers(config, run)
    judges = judges_of(config, run)
    store = ScoreStore(run, "a", judges["a"])
    names = run.list(store.folder)
    assert len(names) == 3
    run.delete(names[0])
    run.write(names[1], b"torn")
    assert take_numbers(config, run, judges) == first
    assert (judges["a"].shown, judges["b"].shown) == (8, 0)


def test_other_weights_take_new_numbers_and_keep_the_old_ones(config, run):
    take_numbers(config, run)
    judges = {"a": Grey("2"), "b": Grey()}
    records = take_numbers(config, run, judges)
    assert (judges["a"].shown, judges["b"].shown) == (12, 0)
    assert {r.checkpoint_hash for r in records if r.scorer == "a"} == {"2"}
    assert len(run.list("scores/a/")) == 6


def test_a_torn_picture_is_a_row_with_its_reason_and_is_tried_again(config, run):
    whole = run.read(cells(config)[0].name)
    run.write(cells(config)[0].name, b"torn")
    records = take_numbers(config, run)
    bad = [record for record in records if record.error]
    assert len(bad) == 2 and "no picture: " in bad[0].error and np.isnan(bad[0].value)
    run.write(cells(config)[0].name, whole)
    judges = judges_of(config, run)
    assert not [record for record in take_numbers(config, run, judges) if record.error]
    assert judges["a"].shown == 1


def test_a_number_that_is_none_is_a_missing_one_with_its_reason(config, run):
    records = take_numbers(config, run, {"a": Grey(), "blue": Blue()})
    assert {r.error for r in records if r.scorer == "blue"} == {"the scorer gave nan"}
    lines = [json.loads(line) for line in run.read(suite.RECORDS).splitlines()]
    assert len(lines) == 24 and lines[-1]["scorer"] == "blue"


def test_scorers_share_one_pass_over_the_pictures_and_a_fresh_process_needs_no_network(
    config, run, monkeypatch
):
    options = ("aesthetic.view=letterbox", "squashed.view=squash")
    judges = Judges(scorers=("aesthetic", "clip", "squashed=clip"), options=options)
    config = replace(config, judges=judges)
    first = take_numbers(config, run)
    files = run.list("cache/embeddings/")
    assert len(files) == 12 * 2 + 3, "each picture once per view, each prompt once"
    for name in run.list("scores/"):
        run.delete(name)

    def load(self, device):
        raise AssertionError("the network was loaded again")

    load_backbone.cache_clear()
    monkeypatch.setattr(OpenClip, "load", load)
    assert take_numbers(config, run) == first
