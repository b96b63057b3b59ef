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
from pipeline.ideas.filters import FilterSettings
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
    with pytest.raises(KeyboardInterrupt), contained("Mine"):
        signal.raise_signal(signal.SIGINT)


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


class Fails:
    """An expander that fails as the idea says."""

    name = "mine"

    def __init__(self, *_: Any) -> None:
        pass

    async def expand(self, row: Row) -> Expanded:
        if row["text"] == "a fault of the user":
            raise UserError("no key")
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


def test_a_plugin_that_ends_the_program_from_a_task_of_its_own_is_named() -> None:
    with pytest.raises(UserError, match=r"tried to end the program \(SystemExit: 0\) .*:Fails"):
        expanded(f"{HERE}:Fails", "an exit elsewhere")


def test_a_user_error_within_a_plugin_ends_the_run() -> None:
    with pytest.raises(UserError, match="no key"):
        expanded(f"{HERE}:Fails", "a fault of the user")


def test_a_reason_that_is_not_unicode_is_written_out() -> None:
    assert filtered(f"{WRONG}:refuses", "a lake") == [("dropped", "a file called caf\\udce9")]
