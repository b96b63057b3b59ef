"""The outdoor rules, and filters written as plain functions."""

from __future__ import annotations

import pytest

from drspo import consent
from drspo.files.storage import Storage
from drspo.llm.settings import LLMSettings
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings, outdoor_by_rules
from pipeline.ideas.prompts import expand, filter_prompts, ingest, screen_freely
from pipeline.ideas.sources import PromptSettings
from pipeline.records import Prompt, prompt_id, prompt_table


def table(*texts, **changes):
    return prompt_table(Prompt(prompt_id=prompt_id(t), text=t, source_text=t, **changes) for t in texts)


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


def test_the_idea_is_judged_before_the_grammar_puts_hills_around_it(tmp_path):
    ideas = table("a cosy kitchen", "a ham sandwich", "a calm lake", "the golden age")
    found = screen_freely(ideas, FilterSettings(undecided="drop")).to_pylist()
    assert [row["status"] for row in found] == ["dropped", "dropped", "ok", "dropped"]
    grown = expand(table("the golden age"), ExpandSettings(), LLMSettings(), Storage(tmp_path))
    assert outdoor_by_rules(grown["text"][0].as_py()), "what the grammar adds would have been enough"


def test_an_expansion_is_judged_for_what_it_may_have_broken(tmp_path):
    indoors = "a hall with a chandelier and a sofa"
    written = table(indoors, "something wide and calm", expander="llm")
    assert [status for status, _ in outcomes(written, tmp_path, undecided="drop")] == ["dropped", "ok"]
    assert outcomes(table(indoors, expander="grammar"), tmp_path) == [("ok", "")], "that was the idea's own"


def test_near_duplicates_leave_before_anything_is_paid_for():
    ideas = table("a red boat on a calm lake at dawn", "a red boat on the calm lake at dawn", "a tall hill")
    found = screen_freely(ideas, FilterSettings(near_duplicates=0.5)).to_pylist()
    assert [row["reason"].startswith("near duplicate") for row in found] == [False, True, False]


def test_undecided_ideas_are_kept_or_dropped_as_asked():
    ideas = table("雪の中の赤い門")
    [kept] = screen_freely(ideas, FilterSettings(undecided="keep")).to_pylist()
    [dropped] = screen_freely(ideas, FilterSettings(undecided="drop")).to_pylist()
    assert kept["status"] == "ok" and dropped["status"] == "dropped"
    assert dropped["reason"].startswith("rules undecided")


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
