"""The Ray executor gives the local executor's tables, and loses one row to a poisoned prompt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from dataset_builder.build import Build, Outcome
from dataset_builder.gather import Shard
from drspo.config import dump
from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.llm.journal import Journal
from drspo.llm.settings import LLMSettings
from pipeline.candidates.guard import process_start, read_attempts
from pipeline.candidates.plan import read_plan
from pipeline.ideas.filters import FilterSettings
from pipeline.settings import ExportSettings, PairSettings, ResourceSettings
from pipeline.units import UnitStore
from tests.building import ALLOW, FAKES, IDEAS, build, fake_config, final_tables, with_candidates
from tests.forks import Forks
from tests.hostile_llm import KEY, HostileLLM
from tests.test_builder_questions import asking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("pipeline_flow")]

RESOURCES = ResourceSettings(generator_actors=2, actor_cpus=0.5)
SEVERAL = replace(RESOURCES, text_actors=2)


@pytest.fixture(scope="module", autouse=True)
def session(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One Ray for the module, whose start costs more than its work; gives the log of images made on it."""
    import ray

    from pipeline.candidates.cluster import connect

    made = tmp_path_factory.mktemp("made") / "made.log"
    # Workers import the fakes from the checkout, whatever path this session was given.
    workers = {"PYTHONPATH": str(repository), "FAKE_LOG": str(made), "FAKE_SECONDS": "0.05"}
    workers["OPENAI_API_KEY"] = KEY  # as a cluster's nodes have it, from their environment
    # Idle workers wait for the next test, whose start of others would cost more than its work.
    workers |= {"RAY_num_workers_soft_limit": "8", "RAY_idle_worker_killing_time_threshold_ms": "60000"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in workers.items():
            patch.setenv(name, value)
        connect(ResourceSettings(object_store_mb=300))
    yield made
    ray.shutdown()


def build_on_ray(config: Any) -> Outcome:
    from dataset_builder.spread import RayWriter
    from pipeline.flow import RayExecutor

    return Build(config, RayExecutor(config.resources), RayWriter(config.resources))()


def test_both_executors_give_the_same_tables(tmp_path: Path) -> None:
    for name in ("local", "ray"):
        (tmp_path / name).mkdir()
    build(fake_config(tmp_path / "local", tmp_path / "local/out"))
    config = fake_config(tmp_path / "ray", tmp_path / "ray/out", resources=RESOURCES)
    outcome = build_on_ray(config)
    assert outcome.made_now == len(IDEAS)
    assert final_tables(tmp_path / "ray/out") == final_tables(tmp_path / "local/out")
    assert build_on_ray(config).made_now == 0


def test_tasks_write_the_shards_that_one_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataset_builder import export, spread

    monkeypatch.setattr(export, "MEGABYTE", 1000)
    monkeypatch.setattr(spread, "SHARDS_PER_TASK", 2)
    settings = {
        "pairs": PairSettings(method="all", validation_fraction=0.3),
        "export": ExportSettings(shard_mb=40, row_group_mb=20, ranking=True),
    }
    out = tmp_path / "out"
    config = fake_config(tmp_path, out, resources=RESOURCES, **settings)
    build(config)
    before = final_tables(out)
    shards = sorted((out / "export").rglob("*.parquet"))
    assert len(shards) > 8
    for file in shards[1:]:
        file.unlink()
    rotten = sorted((out / "units").rglob("*.parquet"))[-1]
    data = bytearray(rotten.read_bytes())
    data[data.index(b"RIFF") + 40] ^= 1
    rotten.write_bytes(data)
    kept = shards[0].stat().st_mtime_ns
    assert build_on_ray(config).made_now == 1, "a task that meets a rotten image says which"
    assert final_tables(out) == before
    assert shards[0].stat().st_mtime_ns == kept


def test_a_lost_task_is_begun_again_and_one_that_nobody_waits_for_takes_its_worker_along(
    tmp_path: Path, session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted worker would serve the next task, with whatever it was importing left half done."""
    from ray.exceptions import WorkerCrashedError

    from dataset_builder import spread
    from tests.plugin_fakes import quick_or_endless

    pids = session.with_name(f"{session.name}.endless")
    for file in (pids, session.with_name(f"{session.name}.quick")):
        file.unlink(missing_ok=True)
    monkeypatch.setattr(spread, "_RETRIES", 0)  # so that Ray does not begin it again, as it often does
    monkeypatch.setattr(spread, "_write", quick_or_endless)
    monkeypatch.setattr(spread, "SHARDS_PER_TASK", 1)
    shards = [Shard(name, pl.DataFrame(), (), "") for name in ("quick", "endless")]
    store = UnitStore(Storage(tmp_path), "", ())
    with pytest.raises(WorkerCrashedError):
        list(spread.RayWriter(replace(RESOURCES, restarts=0))(store, shards[:1], (), ExportSettings(), set()))
    session.with_name(f"{session.name}.quick").unlink()
    written = spread.RayWriter(RESOURCES)(store, shards, (), ExportSettings(), set())
    assert next(written) == "quick"
    (pid,) = pids.read_text().split()
    assert process_start(int(pid))
    written.close()
    for _ in range(600):
        if not process_start(int(pid)):
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on")


def test_blocks_flow_from_the_first_idea_to_the_last_unit_as_in_one_process(
    tmp_path: Path, session: Path
) -> None:
    expected = []
    session.with_name(f"{session.name}.texts").unlink(missing_ok=True)
    for name, block in (("local", 0), ("ray", 2)):
        (tmp_path / name).mkdir()
        config = fake_config(tmp_path / name, tmp_path / name / "out", block=block, resources=SEVERAL)
        filters = FilterSettings(near_duplicates=0.7, filters=("rules", f"{FAKES}:tells"))
        # Of the first block no picture is made before a text of the second was filtered.
        config = with_candidates(replace(config, filter=filters), f"{FAKES}:Painter.awaits=castle")
        outcome = build(config) if name == "local" else build_on_ray(config)
        assert outcome.made_now == len(IDEAS)
        expected.append(final_tables(tmp_path / name / "out"))
    assert expected[0] == expected[1]
    # What is asked for again, such as a unit whose file was lost, is made without the texts.
    unit = next((tmp_path / "ray/out/units").rglob("*.parquet"))
    unit.unlink()
    assert build_on_ray(config).made_now == 1 and final_tables(tmp_path / "ray/out") == expected[0]


def test_several_actors_ask_a_language_model_for_each_answer_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    tables, asked = [], []
    for name, changes in (("local", {}), ("ray", {"block": 3, "resources": SEVERAL})):
        (tmp_path / name).mkdir()
        with HostileLLM() as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            config = replace(asking(tmp_path / name, server), until="prompts", **changes)
            build(config) if name == "local" else build_on_ray(config)
            asked.append(server.requests)
            assert Journal(Storage(config.out)).books().tokens == server.billed > 0
        tables.append(Path(config.out, "prompts.parquet").read_bytes())
    assert tables[0] == tables[1] and asked[0] == asked[1]


def test_several_actors_keep_one_budget_and_stop_once_enough_prompts_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    tables, asked = [], []
    for name, resources in (("local", RESOURCES), ("ray", SEVERAL)):
        (tmp_path / name).mkdir()
        with HostileLLM() as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            config = asking(tmp_path / name, server)
            filters = replace(config.filter, accept=8)
            config = replace(config, until="prompts", block=1, filter=filters, resources=resources)
            make = build if name == "local" else build_on_ray
            if name == "ray":
                short = replace(config, llm=replace(config.llm, token_budget=2000))
                with pytest.raises(UserError, match="llm budget"):
                    make(short)
                assert 2000 - 1600 < server.billed <= 2000  # one request is estimated at less than 1600
            make(config)
            asked.append(len(server.requests) // 3)  # each idea, and its two prompts
        tables.append(Path(config.out, "prompts.parquet").read_bytes())
    # The fourth block of ten fills the eight; no block is begun that is four ahead of those finished.
    assert tables[0] == tables[1] and asked[0] == 4 <= asked[1] <= 3 + 2 * SEVERAL.text_actors


def test_workers_that_die_while_they_ask_or_are_told_to_end_while_they_paint_lose_no_prompt(
    tmp_path: Path, session: Path
) -> None:
    def config(name: str) -> Any:
        (tmp_path / name).mkdir()
        plain = fake_config(tmp_path / name, tmp_path / name / "out", block=2, resources=SEVERAL)
        return with_candidates(plain, f"{FAKES}:Painter.poison=castle", f"{FAKES}:Painter.how=terminated")

    calm, rough = config("calm"), config("ray")
    (tmp_path / "calm/made.log.terminated").touch()  # in this process it has happened already
    build(calm)
    died, told = (session.with_name(f"{session.name}.{what}") for what in ("died", "terminated"))
    for file in (died, told):
        file.unlink(missing_ok=True)
    filters = replace(rough.filter, filters=(*rough.filter.filters, f"{FAKES}:dies_once"))
    outcome = build_on_ray(replace(rough, filter=filters))
    assert died.exists() and told.exists()
    assert (outcome.made_now, outcome.dead) == (len(IDEAS), 0)
    assert final_tables(rough.out) == final_tables(calm.out)
    # A worker that was told to end takes its attempt along: nobody will hold it against the prompt.
    assert read_attempts(Storage(rough.out)) == []


def test_one_gate_holds_all_actors_back() -> None:
    import ray

    from pipeline.ideas.shared_pace import Gate, SharedPace

    gate = ray.remote(num_cpus=0)(Gate).remote(LLMSettings(tokens_per_minute=6000))

    async def wait() -> tuple[float, float]:
        one, other = SharedPace(gate, 4), SharedPace(gate, 4)
        await one.ready(6000)  # a minute's worth
        started = time.monotonic()
        await other.ready(200)
        spent = time.monotonic() - started
        await one.give_back(6000)
        await one.pause(1.0)
        started = time.monotonic()
        await other.ready(1)
        return spent, time.monotonic() - started

    spent, paused = asyncio.run(wait())
    assert spent >= 1.9 and paused >= 0.9


def test_prompts_alone_are_made_on_the_cluster_too_and_then_every_generator_actor_works(
    tmp_path: Path, session: Path
) -> None:
    pids = session.with_name(f"{session.name}.pids")
    pids.unlink(missing_ok=True)
    config = fake_config(tmp_path, tmp_path / "out", block=2, resources=SEVERAL, until="prompts")
    # However long an actor takes to start, the others' first image waits for it.
    actors = SEVERAL.generator_actors
    config = with_candidates(config, f"{FAKES}:Painter.meet={actors}")
    # Prompts ask for no GPU, whatever is to paint them on another day.
    outcome = build_on_ray(replace(config, resources=replace(SEVERAL, generator_gpus=0.8, scorer_gpus=0.2)))
    assert (outcome.accepted, outcome.made_now) == (len(IDEAS), 0) and not (tmp_path / "out/units").exists()
    outcome = build_on_ray(replace(config, until="shards"))
    assert (outcome.made_now, outcome.dead) == (len(IDEAS), 0)
    assert len(set(pids.read_text().split())) == actors


def test_prompts_that_take_workers_down_are_dead_rows_with_their_reasons(tmp_path: Path) -> None:
    config = fake_config(tmp_path, tmp_path / "out", resources=RESOURCES)
    config = with_candidates(
        config,
        *(f"{FAKES}:Painter.{option}" for option in ("poison=castle", "how=killed")),
        *(f"{FAKES}:Sketcher.{option}" for option in ("poison=windmill", "how=hang")),
    )
    options = tuple(f"{FAKES}:Contrast.{option}" for option in ("poison=balloon", "how=segfault"))
    config = replace(config, guard=replace(config.guard, deadline=6.0))
    outcome = build_on_ray(replace(config, scoring=replace(config.scoring, options=options)))
    assert (outcome.made_now, outcome.dead, sum(outcome.pairs.values())) == (len(IDEAS), 3, len(IDEAS) - 3)
    dead = [row.read_text() for row in (tmp_path / "out/dead").iterdir()]
    reasons = {"castle": "died without a word", "windmill": "no answer within 6 s"}
    for word, reason in (reasons | {"balloon": "Segmentation fault"}).items():
        assert len([row for row in dead if word in row and reason in row]) == 1, (word, dead)
    assert len(list((tmp_path / "out/units").rglob("*.parquet"))) == len(IDEAS)


def test_a_wrong_setting_of_a_stage_reaches_the_user_as_such(tmp_path: Path) -> None:
    config = with_candidates(
        fake_config(tmp_path, tmp_path / "out", resources=RESOURCES),
        "tests.plugin_fakes:Painter.poisn=castle",
    )
    with pytest.raises(UserError, match="no field 'poisn'"):
        build_on_ray(config)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            ResourceSettings(generator_gpus=0.8, scorer_gpus=0.2),
            "wants 0.8 GPU, and the largest node of the cluster has 0",
        ),
        (ResourceSettings(actor_cpus=64), "a generator wants 64 logical CPUs, and the largest node"),
    ],
)
def test_resources_that_do_not_exist_are_refused_before_anything_is_asked_or_made(
    tmp_path: Path, resources: ResourceSettings, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_on_ray(fake_config(tmp_path, tmp_path / "out", resources=resources))
    assert not list((tmp_path / "out").rglob("*prompts*.parquet"))


LIGHTS = ("fog", "rain", "moonlight", "the evening", "winter")
# How many unit files there are when the driver is killed. The last start ends.
MOMENTS = [4, 0]


def test_kills_of_the_driver_lose_and_double_nothing(tmp_path: Path, session: Path, repository: Path) -> None:
    import ray

    ideas = [f"a {scene} in {light}" for scene in ("fjord", "mesa", "delta", "moor") for light in LIGHTS]
    calm, out = tmp_path / "calm", tmp_path / "out"
    calm.mkdir()
    build(fake_config(calm, calm / "out", ideas))
    file, log = tmp_path / "config.yaml", tmp_path / "log.txt"
    file.write_text(dump(fake_config(tmp_path, out, ideas, resources=RESOURCES, executor="ray")))
    address = ray.get_runtime_context().gcs_address
    forks, rng, codes = Forks(repository, "pipeline.flow"), random.Random(3), []
    stood, seen = set(), 0
    try:
        for moment in MOMENTS:
            pid = forks.start(["--config", str(file), *ALLOW], log, RAY_ADDRESS=address)
            if moment:
                wait_until(out, moment)
                time.sleep(rng.uniform(0, 0.2))
                forks.kill(pid)
            codes.append(forks.wait())
            images = session.read_text().splitlines() if session.exists() else []
            again = [image for image in images[seen:] if any(prompt in image for prompt in stood)]
            assert not again, "a unit that had its file was made again"
            stood, seen = prompts_done(out), len(images)
    finally:
        forks.close()
    assert codes == [-9, 0], (codes, log.read_text())
    assert final_tables(out) == final_tables(calm / "out")
    assert not list(out.glob("dead/*")) and not list(out.glob("quarantine/*"))


def wait_until(out: Path, units: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(committed(out)) < units:
        time.sleep(0.01)


def committed(out: Path) -> set[str]:
    return {file.stem for file in (out / "units").rglob("[0-9a-f]*.parquet")}


def prompts_done(out: Path) -> set[str]:
    done = committed(out)
    units = pa.concat_tables(read_plan(Storage(out))).to_pylist()
    return {unit["prompts"][0]["text"] for unit in units if unit["unit_id"] in done}
