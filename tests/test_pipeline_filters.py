"""The outdoor rules, and filters written as plain functions."""

from __future__ import annotations

import pytest

from drspo import consent
from drspo.llm.settings import LLMSettings
from pipeline.ideas.filters import FilterSettings, outdoor_by_rules
from pipeline.ideas.prompts import filter_prompts, ingest
from pipeline.ideas.sources import PromptSettings
from pipeline.records import Prompt, prompt_id, prompt_table


def table(*texts, source_text=""):
    return prompt_table(Prompt(prompt_id=prompt_id(t), text=t, source_text=source_text or t) for t in texts)


def outcomes(prompts, folder, **settings):
    settings = FilterSettings(**{"near_duplicates": 0, **settings})
    rows = filter_prompts(prompts, settings, LLMSettings(), folder).to_pylist()
    return [(row["status"], row["reason"]) for row in rows]


@pytest.mark.parametrize(
    ("text", "outdoor"),
    [
        ("a lighthouse on a cliff", True),
        ("A KITCHEN WITH COPPER PANS", False),
        ("interior of a temple on a mountain", False),
        ("a room with a view of the sea and the harbour", True),
        ("churches and castles", True),
        ("a stage", False),
        ("the golden age", None),
        ("雪の中の赤い門", None),
    ],
)
def test_the_rules_count_whole_words_in_any_case(text, outdoor):
    found = outdoor_by_rules(text)
    assert found is None if outdoor is None else found is not None and found[0] is outdoor


def test_the_idea_decides_even_when_the_grammar_put_hills_around_it(tmp_path):
    prompts = table("a cosy kitchen, soft hills and a river in the distance", source_text="a cosy kitchen")
    assert outcomes(prompts, tmp_path) == [("dropped", "rules indoor: kitchen")]


def test_undecided_texts_are_kept_or_dropped_as_asked(tmp_path):
    prompts = table("雪の中の赤い門")
    assert outcomes(prompts, tmp_path) == [("ok", "")]
    [(status, reason)] = outcomes(prompts, tmp_path, undecided="drop")
    assert status == "dropped" and reason.startswith("rules undecided")


def test_the_rules_agree_with_the_labels_of_the_shipped_corpus():
    rows = ingest(PromptSettings()).to_pylist()
    wrong = [
        row["text"]
        for row in rows
        if (found := outdoor_by_rules(row["text"])) is not None and found[0] != ("outdoor" in row["source"])
    ]
    assert len(wrong) <= 0.02 * len(rows), wrong


def no_castles(row):
    """A plugin filter: a plain function of the row."""
    return "no castles here" if "castle" in row["text"] else None


def test_a_plain_function_is_a_filter(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "my_filters", sys.modules[__name__])
    consent.allow("my_filters")
    found = outcomes(table("a castle", "a lake"), tmp_path, filters=("rules", "my_filters:no_castles"))
    assert found == [("dropped", "no castles here"), ("ok", "")]


def test_near_duplicates_among_the_accepted_are_dropped(tmp_path):
    first = "a lighthouse on a cliff above a stormy sea, waves breaking on wet dark rocks in the evening"
    prompts = table(first, first + "s", "a calm lake below the mountains")
    found = outcomes(prompts, tmp_path, near_duplicates=0.8)
    assert found == [("ok", ""), ("dropped", f"near duplicate of {prompt_id(first)}"), ("ok", "")]
