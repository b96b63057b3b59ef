"""The headline: surplus objects where they differ clearly, the average rank where they do not."""

import numpy as np
import pytest

from eval.benchmark.records import Record
from eval.report.comparison import Comparison
from eval.report.markdown import markdown
from eval.report.order import order


def records(scorer, means, higher=True, noise=0.2, prompts=20):
    rng = np.random.default_rng(len(scorer))
    base = rng.normal(size=prompts)
    return [
        Record(
            method=method, prompt=f"p{prompt}", seed=0, scorer=scorer, unit="u", view="v",
            checkpoint="c", checkpoint_hash="h", higher_is_better=higher,
            value=float(base[prompt] + mean + noise * rng.normal()),
        )
        for method, mean in means.items()
        for prompt in range(prompts)
    ]  # fmt: skip


def compared(surplus, liked, **more):
    scores = [record for scorer in ("aesthetic", "clip", "hps_v2") for record in records(scorer, liked)]
    return Comparison([*records("surplus", surplus, higher=False), *scores], "mad", **more)


def test_clearly_fewer_surplus_objects_outvote_any_number_of_scores():
    found = compared({"mad": 3.0, "drspo": 0.0, "sdxl": 0.05}, {"mad": 9.0, "sdxl": 5.0, "drspo": 1.0})
    assert min(found.standings, key=lambda name: found.standings[name].rank.mean) == "mad"
    placed = order(found)
    assert [place.method for place in placed] == ["sdxl", "drspo", "mad"], "no clear difference: by rank"
    assert set(placed[0].before) == set(placed[1].before) == {"mad"} and not placed[2].before
    gap = placed[0].before["mad"]
    assert gap.mean == pytest.approx(2.95, abs=0.3) and 0 < gap.low < gap.mean < gap.high


def test_a_method_stands_before_every_method_that_has_clearly_more():
    rng = np.random.default_rng(0)
    for _ in range(30):
        means = {name: float(rng.uniform(0, 0.6)) for name in ("mad", "a", "b", "c", "d")}
        placed = order(compared(means, {name: float(rng.normal()) for name in means}))
        names = [place.method for place in placed]
        assert sorted(names) == sorted(means)
        for number, place in enumerate(placed):
            assert set(place.before) <= set(names[number + 1 :])


def test_the_order_leads_the_tables_with_its_reasons_and_is_absent_where_nothing_counts():
    found = compared({"mad": 3.0, "drspo": 0.0}, {"mad": 1.0, "drspo": 0.0})
    text = markdown(found)
    assert text.startswith("### In order") and "| 1 | drspo | " in text and "| mad (" in text
    assert not order(compared({"mad": 3.0, "drspo": 0.0}, {"mad": 1.0, "drspo": 0.0}, aside=("surplus",)))
    assert not order(Comparison(records("clip", {"mad": 0.0, "drspo": 1.0}), "mad"))
