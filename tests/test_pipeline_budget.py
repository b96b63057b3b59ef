"""Money is shared: however many ask through one gate, what they spend together stays within one budget."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drspo import consent
from drspo.files.storage import Storage
from drspo.llm.account import bill
from drspo.llm.ask import LLM
from drspo.llm.budget import PATIENCE, Budget
from drspo.llm.journal import Journal
from drspo.llm.segments import Line
from drspo.llm.settings import LLMSettings
from drspo.llm.wire import Wire
from pipeline.ideas.questions import Expansion, load_template
from pipeline.ideas.shared_pace import Gate, SharedPace
from tests.hostile_llm import KEY, HostileLLM


class GateThread:
    """A gate on an event loop of its own thread, called as Ray's actors are: `gate.name.remote(...)`."""

    def __init__(self, *arguments: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.gate = self._run(self._made(*arguments)).result()

    async def _made(self, *arguments: Any) -> Gate:
        return Gate(*arguments)

    def _run(self, call: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(call, self.loop)

    def __getattr__(self, name: str) -> Any:
        def remote(*given: Any) -> Any:
            future = self._run(getattr(self.gate, name)(*given))
            return type("Call", (), {"future": lambda self: future})()

        return type("Method", (), {"remote": staticmethod(remote)})

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileLLM]:
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    monkeypatch.setattr(Wire, "first_wait", 0.01)
    with HostileLLM() as found:
        yield found


def settings_of(server: HostileLLM, **changes: Any) -> LLMSettings:
    base = LLMSettings(model="tiny", base_url=server.url, key_variable="TEST_LLM_KEY", timeout=60.0)
    consent.say("llm.base_url", base.base_url)
    consent.say("llm.key_variable", base.key_variable)
    return replace(base, **changes)


def ask_all(settings: LLMSettings, folder: Path, gate: Any, ideas: list[str]) -> list[str]:
    """One actor's work: its answers' kinds."""

    async def work() -> list[str]:
        model = LLM(settings, Storage(folder), pace=SharedPace(gate, settings.concurrency))
        template = load_template("expand")
        answers = [model.ask(template, Expansion, idea=idea, count=1, max_words=60) for idea in ideas]
        kinds = [answer.kind for answer in await asyncio.gather(*answers)]
        await model.close()
        return kinds

    return asyncio.run(work())


ODD = ("", "", "", "flaky ", "html page once ", "nonsense ", "silent about usage ", "cut once ")


@pytest.mark.parametrize("odd", [False, True])
def test_four_actors_stop_within_one_request_of_their_common_budget(
    server: HostileLLM, tmp_path: Path, odd: bool
) -> None:
    budget, actors = 9000, 4
    settings = settings_of(server, token_budget=budget, max_output_tokens=200, concurrency=8)
    gate = GateThread(settings, str(tmp_path), actors)
    server.delay = 0.01
    words = ODD if odd else ("",)
    ideas = [[f"a {words[i % len(words)]}lake {actor} {i}" for i in range(40)] for actor in range(actors)]
    try:
        with ThreadPoolExecutor(actors) as threads:
            asked = [threads.submit(ask_all, settings, tmp_path, gate, some) for some in ideas]
            kinds = [kind for one in asked for kind in one.result()]
    finally:
        gate.close()
    spent = Journal(Storage(tmp_path)).books().tokens
    # An answer that could not be read is asked for once more in a longer request.
    estimate = max(bill("", body, settings).most for body in server.bodies)
    assert kinds.count("budget") > 0 and spent <= budget
    assert budget - spent < estimate, "and nothing that fits was refused"
    assert spent == server.billed or odd
    assert server.total * 120 <= budget


def test_an_answer_that_ignores_its_longest_length_ends_the_asking(
    server: HostileLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tests.hostile_llm as hostile

    def long(self: Any, source: str, nth: int) -> None:
        told = {"prompt_tokens": 100, "completion_tokens": 5000}
        self.say({"choices": [{"message": {"content": self.words(source)}}]}, usage=told)

    monkeypatch.setitem(hostile._BEHAVIOURS, "lake", long)
    settings = settings_of(server, token_budget=4000, max_output_tokens=200, concurrency=2)
    gate = GateThread(settings, str(tmp_path), 2)
    server.delay, server.together = 0.05, 4
    ideas = [[f"a lake {actor} {i}" for i in range(20)] for actor in range(2)]
    try:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda some: ask_all(settings, tmp_path, gate, some), ideas))
    finally:
        gate.close()
    # Each under way adds what it is longer than asked for; nothing is sent after the first is known.
    assert server.total == 4 and Journal(Storage(tmp_path)).books().tokens == 4 * 5100


def test_what_a_dead_asker_set_aside_stays_spent_and_nobody_waits_for_it(tmp_path: Path) -> None:
    now = [0.0]

    async def ask() -> list[int]:
        budget = Budget(100, Journal(Storage(tmp_path)), timeout=5.0, clock=lambda: now[0])
        dead = await budget.reserve(90, "writer-of-the-dead")
        now[0] = 5.0 + PATIENCE
        return [dead, await budget.reserve(20, "another"), await budget.reserve(10, "another")]

    dead, refused, fits = asyncio.run(asyncio.wait_for(ask(), 20))
    assert dead and not refused and fits


def test_earlier_starts_and_other_programs_count_and_no_asker_counts_twice(tmp_path: Path) -> None:
    journal = Journal(Storage(tmp_path))
    journal.write([Line(request_hash="ab" * 16, kind="lost", requests=1, prompt_tokens=60)])
    asker = Journal(Storage(tmp_path))

    async def ask() -> list[int]:
        budget = Budget(100, Journal(Storage(tmp_path)))
        refused = await budget.reserve(41, asker.writer)
        held = await budget.reserve(30, asker.writer)
        asker.write([Line(request_hash="cd" * 16, kind="lost", requests=1, prompt_tokens=20)])
        await budget.settle(held, 20)
        budget.journal.refresh(0)
        return [refused, await budget.reserve(21, asker.writer), await budget.reserve(20, asker.writer)]

    refused, too_much, fits = asyncio.run(ask())
    assert not refused and not too_much and fits


def test_no_block_is_asked_far_ahead_or_after_enough_were_found() -> None:
    async def ask() -> list[bool]:
        gate = Gate(LLMSettings(), askers=2)
        assert all([await gate.may_ask(block) for block in range(4)])
        far = asyncio.ensure_future(gate.may_ask(4))
        await asyncio.sleep(0.05)
        assert not far.done()
        await gate.progress(1, False)
        assert await far
        late = asyncio.ensure_future(gate.may_ask(9))
        await gate.progress(2, True)
        return [await late, await gate.may_ask(3)]

    assert asyncio.run(asyncio.wait_for(ask(), 20)) == [False, False]


def test_nobody_waits_for_what_a_lost_finisher_had_in_its_memory() -> None:
    async def ask() -> bool:
        gate = Gate(LLMSettings(), askers=1)
        await gate.begin()
        far = asyncio.ensure_future(gate.may_ask(5))
        await asyncio.sleep(0.05)
        assert not far.done()
        await gate.begin()
        return await far

    assert not asyncio.run(asyncio.wait_for(ask(), 20))
