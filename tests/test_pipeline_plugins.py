"""Expanders and filters of others: whatever they do costs their own rows, by the plugin's name."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from drspo import consent
from drspo.errors import UserError
from drspo.llm.settings import LLMSettings
from pipeline.ideas.expanders import Expanded, ExpandSettings
from pipeline.ideas.filters import FilterSettings, Objection
from pipeline.ideas.prompts import table_of
from pipeline.ideas.stages import ExpandStage, FilterStage, Row
from pipeline.plugins import WrongAnswerError, contained
from pipeline.records import Prompt, prompt_id, prompt_table
from tests.plugin_wrong import FAILURES, fail

HERE = __name__
WRONG = "tests.plugin_wrong"


def rows(*texts: str) -> list[Row]:
    found: list[Row] = prompt_table(
        Prompt(prompt_id=prompt_id(text), text=text, source_text=text) for text in texts
    ).to_pylist()
    return found


def filtered(name: str, *texts: str) -> list[tuple[str, str]]:
    """(status, reason) of each text, as it can be stored."""
    consent.allow(HERE, WRONG)
    with FilterStage(FilterSettings(filters=(name,)), LLMSettings(), "memory://filtered") as stage:
        return [(row["status"], row["reason"]) for row in table_of(stage(rows(*texts))).to_pylist()]


def expanded(name: str, *texts: str) -> list[Row]:
    consent.allow(HERE)
    with ExpandStage(ExpandSettings(expander=name), LLMSettings(), "memory://expanded") as stage:
        found: list[Row] = table_of(stage(rows(*texts))).to_pylist()
    return found


@pytest.mark.parametrize("how", FAILURES)
def test_whatever_plugin_code_raises_is_its_failure_on_one_line(how: str) -> None:
    with pytest.raises(WrongAnswerError, match=f"^Mine: {type(FAILURES[how]).__name__}: ") as caught:
        with contained("Mine"):
            fail(how)
    str(caught.value).encode()


def test_ctrl_c_within_a_plugin_ends_the_program() -> None:
    # A program that a shell starts in the background ignores Ctrl-C, and so would this one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), contained("Mine"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_task_that_is_cancelled_within_a_plugin_ends() -> None:
    async def waits() -> None:
        with contained("Mine"):
            await asyncio.sleep(60)

    async def cancelled() -> bool:
        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


def fails(row: Row) -> None:
    fail(row["text"])


def cancels(row: Row) -> None:
    task = asyncio.current_task()
    assert task is not None
    if row["text"] == "its own end":
        task.cancel()


async def waits_cancelled(row: Row) -> None:
    cancels(row)
    await asyncio.sleep(0)


class Fails:
    """An expander that fails as the idea says."""

    name = "mine"

    def __init__(self, *_: Any) -> None:
        pass

    async def expand(self, row: Row) -> Expanded:
        if row["text"] == "a fault of the user":
            raise UserError("no key")
        if row["text"] == "its own end":
            cancels(row)
            await asyncio.sleep(0)
        if row["text"] == "an exit elsewhere":
            await asyncio.ensure_future(self._exit())
        return Expanded(prompts=(fail(row["text"]) if row["text"] in FAILURES else row["text"],))

    async def _exit(self) -> None:
        raise SystemExit(0)


def test_no_failure_of_a_filter_touches_another_row() -> None:
    found = filtered(f"{HERE}:fails", *FAILURES)
    assert [status for status, _ in found] == ["dead"] * len(FAILURES)
    assert all(reason.startswith("fails: ") for _, reason in found)
    assert filtered(f"{WRONG}:exits", "a lake") == [("dead", "exits: SystemExit: 0")]


def test_no_failure_of_an_expander_touches_another_row() -> None:
    found = expanded(f"{HERE}:Fails", *FAILURES, "a calm lake")
    assert [row["status"] for row in found] == ["dead"] * len(FAILURES) + ["ok"]
    assert all(row["reason"].startswith("Fails: ") for row in found[:-1])


def test_a_plugin_that_cancels_its_own_task_costs_its_row_only() -> None:
    found = expanded(f"{HERE}:Fails", "its own end", "a calm lake")
    told = [(row["status"], row["reason"]) for row in found]
    assert told == [("dead", "Fails: it cancelled its own task"), ("ok", "")]
    found = filtered(f"{HERE}:waits_cancelled", "its own end", "a calm lake")
    assert found == [("dead", "waits_cancelled: it cancelled its own task"), ("ok", "")]


def test_a_plugin_that_ends_the_program_from_a_task_of_its_own_is_named() -> None:
    with pytest.raises(UserError, match=r"tried to end the program \(SystemExit: 0\) .*:Fails"):
        expanded(f"{HERE}:Fails", "an exit elsewhere")


def test_a_user_error_within_a_plugin_ends_the_run() -> None:
    with pytest.raises(UserError, match="no key"):
        expanded(f"{HERE}:Fails", "a fault of the user")


def test_a_reason_that_is_not_unicode_is_written_out() -> None:
    assert filtered(f"{WRONG}:refuses", "a lake") == [("dropped", "a file called caf\\udce9")]


WRONG_EXPANSIONS: dict[str, tuple[Any, str]] = {
    "none": (None, "gave None instead of an Expanded"),
    "a list": (["a calm lake"], "gave a list instead of an Expanded"),
    "nothing": (Expanded(), "gave no prompts with the status 'ok'"),
    "no reason": (Expanded(status="dropped"), "gave no prompts without a reason"),
    "letters": (Expanded(prompts="a castle"), "gave a str instead of a list of prompts"),
    "a set": (Expanded(prompts={"a castle"}), "gave a set instead of a list of prompts"),  # type: ignore
    "numbers": (Expanded(prompts=[7]), "gave a int instead of a text"),  # type: ignore
    "empty": (Expanded(prompts=["", "a castle"]), "cannot be used: empty"),
    "hidden": (Expanded(prompts=["\u202e \x07"]), "cannot be used: empty"),
    "no letters": (Expanded(prompts=["1 2 3"]), "cannot be used: no letters"),
    "endless": (Expanded(prompts=["x " * 300_000]), "too long: 600000 characters"),
    "half": (Expanded(prompts=["caf\udce9"]), "cannot be used: not UTF-8"),
    "a status": (Expanded(status="refused", reason="r"), "with the status 'refused'"),  # type: ignore
    "both": (Expanded(prompts=["a castle"], status="dropped", reason="r"), "with the status 'dropped'"),
    "no model": (Expanded(prompts=["a castle"], model=None), "None instead of a text as model"),  # type: ignore
}
WRONG_VERDICTS: dict[str, tuple[Any, str]] = {
    "true": (True, "gave a bool (True) instead of None, a reason or an Objection"),
    "false": (False, "gave a bool (False) instead of"),
    "a number": (0.7, "gave a float (0.7) instead of"),
    "empty": ("", "gave an objection without a reason"),
    "blank": (Objection("  "), "gave an objection without a reason"),
    "a status": (Objection("r", status="ok"), "with the status 'ok'"),  # type: ignore
    "no text": (Objection(7), "gave a int instead of a text as reason"),  # type: ignore
}


class Wrong(Fails):
    """An expander whose answer is the one that the idea names; it scribbles on what it is given."""

    async def expand(self, row: Row) -> Any:
        answer = WRONG_EXPANSIONS.get(row["text"])
        row.update(text="scribble", prompt_id="00", status="dropped")
        return answer[0] if answer else Expanded(prompts=["a\u0301  calm\u202e lake"])


def verdicts(row: Row) -> Any:
    answer = WRONG_VERDICTS.get(row["text"])
    row.update(text="scribble", prompt_id="00", status="dropped")
    return answer and answer[0]


def test_an_expanders_wrong_answer_is_the_death_of_its_row_by_name() -> None:
    found = expanded(f"{HERE}:Wrong", *WRONG_EXPANSIONS, "a good idea")
    for row, (_, said) in zip(found, WRONG_EXPANSIONS.values(), strict=False):
        assert row["status"] == "dead" and row["reason"].startswith("Wrong: gave ") and said in row["reason"]
    assert (found[-1]["status"], found[-1]["text"]) == ("ok", "\u00e1 calm lake"), "clean, as an idea is"


def test_a_filters_wrong_answer_is_the_death_of_its_row_by_name() -> None:
    found = filtered(f"{HERE}:verdicts", *WRONG_VERDICTS, "a calm lake")
    for (status, reason), (_, said) in zip(found, WRONG_VERDICTS.values(), strict=False):
        assert status == "dead" and reason.startswith("verdicts: gave ") and said in reason
    assert found[-1] == ("ok", "")


def test_what_a_plugin_does_to_its_row_is_not_stored() -> None:
    given = rows("a calm lake", "empty")
    consent.allow(HERE)
    with FilterStage(FilterSettings(filters=(f"{HERE}:verdicts",)), LLMSettings(), "memory://rows") as stage:
        assert [row["text"] for row in stage(given)] == ["a calm lake", "empty"]
    found = expanded(f"{HERE}:Wrong", "a good idea", "empty")
    assert found[0]["parent_id"] == prompt_id("a good idea")
    assert (found[1]["text"], found[1]["prompt_id"]) == ("empty", prompt_id("empty"))


class Unnamed:
    def __init__(self, *_: Any) -> None:
        pass

    async def expand(self, row: Row) -> Expanded:
        return Expanded(prompts=[row["text"]])


def test_an_expander_without_the_contract_is_refused_before_any_row() -> None:
    with pytest.raises(UserError, match="Unnamed' is no expander"):
        expanded(f"{HERE}:Unnamed", "a calm lake")
