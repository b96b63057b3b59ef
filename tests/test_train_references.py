"""The cache of references: a second run with the same draws asks the frozen model nothing, and learns the
same."""

import math
from dataclasses import replace

import pytest
import torch

from tests.test_train_objective import Adapted, make_problem
from tests.train_pairs import pair_rows, write
from tests.train_runs import records, train, weights
from train.objective import pair as objective
from train.objective.pair import Reference
from train.objective.references import References, reference_key
from train.pairs.cache import TensorCache

PLACE = [64, 208, "window"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", pair_rows(6, (32, 64)))


@pytest.fixture
def asked(monkeypatch) -> list:
    """A list that grows with every reference pass."""
    calls, real = [], objective.reference_pass
    monkeypatch.setattr(objective, "reference_pass", lambda *args: calls.append(1) or real(*args))
    return calls


def run(golden, source, out, **settings):
    own = {"data__cache": out.parent / "cache", "data__validation_pairs": 0, "max_steps": 4}
    return train(golden, source, out, **own | settings)


@pytest.mark.parametrize(
    "together", [{"stage": "blueprint", "memory__window_batch": 2}, {"stage": "highres"}]
)
def test_the_second_run_asks_the_frozen_model_nothing_and_is_equal_to_the_bit(
    golden, source, tmp_path, asked, caplog, together
):
    kept = {"data__cache_references": True} | together
    plain = run(golden, source, tmp_path / "plain", **together)
    assert len(asked) == 4 and not (tmp_path / "cache" / "references").exists()
    cold = run(golden, source, tmp_path / "cold", **kept)
    assert len(asked) == 8
    with caplog.at_level("INFO"):
        warm = run(golden, source, tmp_path / "warm", **kept)
    assert len(asked) == 8 and "references: 4 from the cache, 0 asked of the model" in caplog.text
    for other in (cold, warm):
        assert (other / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
        assert all(torch.equal(weights(other)[name], tensor) for name, tensor in weights(plain).items())


def test_another_loss_lora_or_optimiser_finds_the_references_and_another_seed_does_not(
    golden, source, tmp_path, asked
):
    kept = {"data__cache_references": True}
    run(golden, source, tmp_path / "first", **kept)
    other = {"loss__name": "ipo", "loss__beta": 100, "lora__rank": 2, "optimizer__name": "adafactor"}
    swept = run(golden, source, tmp_path / "swept", **kept, **other)
    assert len(asked) == 4
    first = records(swept)[0]
    assert first["margin"] == 0.0 and first["winner_drift"] == 0.0 and first["kl_proxy_w"] == 0.0
    run(golden, source, tmp_path / "seed", **kept, seed=1)
    assert len(asked) == 8


def test_a_loss_without_reference_keeps_none(golden, source, tmp_path, asked):
    run(golden, source, tmp_path / "mapo", data__cache_references=True, loss__name="mapo")
    assert asked == [] and not (tmp_path / "cache" / "references").exists()


def test_a_damaged_entry_is_asked_for_again(golden, source, tmp_path, asked):
    kept = {"data__cache_references": True}
    one = run(golden, source, tmp_path / "one", **kept)
    entry = next((tmp_path / "cache" / "references").rglob("*.safetensors"))
    entry.write_bytes(entry.read_bytes()[:40])
    two = run(golden, source, tmp_path / "two", **kept)
    assert len(asked) == 5
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_what_overflowed_is_not_kept(tmp_path):
    references = References(TensorCache(tmp_path, "references", "base"), torch.device("cpu"))
    scroll = torch.zeros(1, 4, 2, 2)
    references.keep("abcd", Reference(math.inf, 1.0, scroll, scroll))
    assert references.find("abcd") is None
    references.keep("abcd", Reference(0.1, 1 / 3, scroll, scroll + 1))
    found = references.find("abcd")
    assert (found.error_w, found.error_l) == (0.1, 1 / 3) and torch.equal(found.aggregate_l, scroll + 1)


def test_the_name_of_a_reference_changes_with_everything_the_frozen_model_is_shown():
    problem, text = make_problem(Adapted()), {"embeds": torch.ones(1, 2, 3)}

    def key(problem=problem, text=text, time=5.0, place=PLACE):
        return reference_key(problem, text, time, place=place)

    scrolls = [(side, name) for side in (0, 1) for name in ("latents", "target")]
    others = [
        key(make_problem(Adapted(), grid=(8, 29))),
        key(replace(problem, weights=nudged(problem.weights))),
        *(key(with_other(problem, side, name)) for side, name in scrolls),
        key(replace(problem, windows=problem.windows[:-1])),
        key(replace(problem, micro_batch=2)),
        key(replace(problem, together=True)),
        key(replace(problem, error_weight="overlap")),
        key(replace(problem, error_scale=2.0)),
        key(text={"embeds": torch.zeros(1, 2, 3)}),
        key(time=6.0),
        key(place=[64, 208, "scroll"]),
    ]
    assert key() == key(make_problem(Adapted(size=1.0)))  # the LoRA is not shown to it
    assert len({key(), *others}) == 1 + len(others)


def with_other(problem, number, name):
    """The problem with one element of a scroll's tensor moved by the smallest step."""
    sides = list(problem.sides)
    sides[number] = replace(sides[number], **{name: nudged(getattr(sides[number], name))})
    return replace(problem, sides=tuple(sides))


def nudged(tensor):
    """A copy whose fourth element is moved by the smallest step."""
    tensor = tensor.clone()
    tensor.view(-1)[3] = torch.nextafter(tensor.view(-1)[3], torch.tensor(9.0, dtype=tensor.dtype))
    return tensor
