"""What the pipeline itself costs: `python -m benchmarks.dataset NAME...` prints one line per figure.

overhead   phase 5 in-process, against a bare loop of the same models
ray        phase 5 on Ray, one actor a stage, against two bare processes that generate and score at once
waiting    phase 5 on Ray with scrolls of 5 s in which the CPU rests, as beside a card, against those waits
scaling    sleeping actors with real image bytes, 2 against 8, on Ray
spill      12 MB images through a 700 MB object store
resume     a start with nothing to do, and the listing of 100,000 unit files
journal    100,000 answers of a language model: files, and reads to know what was spent and to find answers
million    1,000,000 prompts through ingest, expand, filter and plan: peak memory
ending     from planned prompts to shards, 10,000 simulated units and ten times as many: the driver's peak,
           and how often each unit is read; with --count 100000 the second is a million: 20 CPU minutes
compact    the 19,531 units that one of 256 folders has in a run of 5,000,000: files, and requests to list
           and to read, before and after they are packed

Ratios are what counts; the times are this machine's. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import simulated
from benchmarks.compaction import compact
from dataset_builder.build import Build, stage_spec
from dataset_builder.config import BuildConfig
from dataset_builder.ideas import make_prompts
from drspo import consent
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from drspo.llm.journal import Journal
from drspo.llm.segments import Line
from drspo.memory import peak_resident
from generate.request import Generator
from pipeline.candidates.plan import PLAN_NAME, make_plan, read_plan
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.ideas.sources import CORPUS, PromptSettings
from pipeline.local import run_units
from pipeline.records import PLAN_SCHEMA, PROMPT_SCHEMA, Prompt, prompt_id, prompt_table
from pipeline.settings import CandidateSettings, ResourceSettings, ScoringSettings
from pipeline.tables import store_pieces

HERE = "benchmarks.dataset"


@dataclass(frozen=True)
class SleeperConfig:
    seconds: float = 1.0


class Sleeper(Generator):
    """Sleeps like a GPU works, then gives noise, which no encoder makes smaller."""

    name = "sleeper"
    config_class = SleeperConfig

    def generate(self, requests: list[Any], callback: object = None) -> list[Any]:
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> SimpleNamespace:
        began = time.monotonic()
        pixels = np.random.default_rng(request.seed).integers(
            0, 256, (request.height, request.width, 3), np.uint8
        )
        image = Image.fromarray(pixels)
        time.sleep(max(0.0, self.config.seconds - (time.monotonic() - began)))
        return SimpleNamespace(request=request, image=image, seconds=self.config.seconds, extras={}, facts={})


class Constant:
    """A number of the picture that costs nothing."""

    name, unit, checkpoint, checkpoint_hash, view = "constant", "", "none", "0", "whole"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        return [float(image.getpixel((0, 0))[0]) for image in images]


def prompts(count: int) -> Any:
    """`count` distinct prompts as a table."""
    texts = (f"a lighthouse at dusk, number {i}" for i in range(count))
    return prompt_table(Prompt(prompt_id=prompt_id(text), text=text) for text in texts)


def sleepers(seconds: float, height: int, width: int, generators: int, **candidates: Any) -> BuildConfig:
    """A configuration of sleeping models: one generator with as many seeds as images are wanted."""
    return BuildConfig(
        candidates=CandidateSettings(
            model="",
            generators=(f"{HERE}:Sleeper",),
            seeds=2,
            height=height,
            width=width,
            options=(f"{HERE}:Sleeper.seconds={seconds}",),
            **candidates,
        ),
        scoring=ScoringSettings(scorers=(f"{HERE}:Constant",)),
        resources=ResourceSettings(generator_actors=generators, actor_cpus=0.1),
    )


def overhead(units: int) -> None:
    """The miniature in-process against a bare loop over the same prompts, start-up left out of both."""
    config, table = miniature(), prompts(units)
    make, score = bare_generator(config.candidates), bare_scorer()

    def bare(text: str) -> None:
        score(make(text), text)

    bare("warm up")
    # Interleaved in blocks, so that a machine that slows down slows down both.
    texts, loop, ours = table["text"].to_pylist(), np.zeros(2), np.zeros(2)
    with tempfile.TemporaryDirectory() as folder:
        spec = stage_spec(config, folder)
        plan = make_plan(table, spec.config_hash)
        stream = run_units(plan, spec)
        next(stream)
        for text in texts[1:]:
            began = clocks()
            bare(text)
            middle = clocks()
            next(stream)
            loop, ours = loop + middle - began, ours + clocks() - middle
    for name, bare_seconds, our_seconds in zip(("wall", "CPU"), loop, ours):
        times = f"bare {bare_seconds:.1f} s, pipeline {our_seconds:.1f} s"
        print(f"overhead: {units - 1} units, {name} time {times}, ratio {our_seconds / bare_seconds:.3f}")


def miniature() -> BuildConfig:
    """One generator of the miniature, few steps."""
    return BuildConfig(candidates=CandidateSettings(generators=("sdxl",), steps=4))


def bare_generator(settings: CandidateSettings) -> Callable[[str], list[Image.Image]]:
    """A prompt to its pictures, with nothing around the model."""
    from generate.models.family import load_family
    from generate.request import Request, build_generator

    generator = build_generator("sdxl", load_family("miniature"), {})
    sizes = {"height": settings.height, "width": settings.width, "steps": settings.steps}

    def make(text: str) -> list[Image.Image]:
        requests = [Request(prompt=text, seed=seed, **sizes) for seed in range(settings.seeds)]
        return [made.image for made in generator.generate(requests)]

    return make


def bare_scorer() -> Callable[[list[Image.Image], str], list[float]]:
    """Pictures and their prompt to scores, with nothing around the model."""
    from eval.base import build_scorer, metric_settings

    scorer = build_scorer("aesthetic", metric_settings("aesthetic", "aesthetic", model="miniature"))
    return lambda images, text: scorer.score(images, [text] * len(images))


def overhead_of_ray(units: int) -> None:
    """Ray's stages run at once, so beside them stand two bare processes that do; all with one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    texts = prompts(units)["text"].to_pylist()
    for _ in range(2):
        bare = overlapping(texts)
        ours, _ = on_ray(miniature(), units, 500)
        for name, bare_seconds, our_seconds in zip(("wall", "CPU"), bare, ours):
            times = f"bare {bare_seconds:.1f} s, on Ray {our_seconds:.1f} s"
            print(
                f"ray: {units - 1} units, {name} time from the first to the last: {times}, "
                f"ratio {our_seconds / bare_seconds:.3f}",
                flush=True,
            )


def overlapping(texts: list[str]) -> np.ndarray:
    """Wall and CPU seconds from the first to the last scored prompt: one process generates, one scores."""
    spawn = multiprocessing.get_context("spawn")
    made, scored, ended = spawn.Queue(maxsize=2), spawn.Queue(), spawn.Event()
    stages = [
        spawn.Process(target=_generate_all, args=(texts, made, ended)),
        spawn.Process(target=_score_all, args=(texts, made, scored, ended)),
    ]
    for stage in stages:
        stage.start()
    moments = []
    for _ in texts:
        scored.get()
        moments.append(clocks_of_all())
    ended.set()  # until then they are there, and their clocks can be read
    for stage in stages:
        stage.join()
    return moments[-1] - moments[0]


def _generate_all(texts: list[str], made: Any, ended: Any) -> None:
    make = bare_generator(miniature().candidates)
    for text in texts:
        made.put([np.asarray(image) for image in make(text)])
    ended.wait()


def _score_all(texts: list[str], made: Any, scored: Any, ended: Any) -> None:
    score = bare_scorer()
    for text in texts:
        score([Image.fromarray(pixels) for pixels in made.get()], text)
        scored.put(text)
    ended.wait()


def clocks_of_all() -> np.ndarray:
    """Wall seconds, and CPU seconds of this process and all below it, Ray's among them."""
    spent = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return np.array([time.monotonic(), spent])


def clocks() -> np.ndarray:
    """Wall and CPU seconds; on a busy machine only the second can be trusted."""
    return np.array([time.monotonic(), time.process_time()])


def on_ray(config: BuildConfig, units: int, store_mb: int) -> tuple[np.ndarray, float]:
    """(wall and CPU seconds from first to last commit, bytes spilled) of units on a Ray of our own."""
    import ray

    from pipeline.flow import RayExecutor

    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    ray.init(
        num_cpus=8, object_store_memory=store_mb * 1_000_000, include_dashboard=False, log_to_driver=False
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            spec = stage_spec(config, folder)
            # Rows reach the driver in bunches: their files say when they were committed.
            with ThreadPoolExecutor(1) as watch:
                moments = watch.submit(commits, Path(folder), units)
                list(RayExecutor(config.resources)(make_plan(prompts(units), "b"), spec))
                return moments.result()[-1] - moments.result()[0], spilled_bytes()
    finally:
        ray.shutdown()


def commits(folder: Path, units: int) -> list[np.ndarray]:
    """The clocks at the first commit, at later ones, and at the last."""
    moments: list[np.ndarray] = []
    seen = 0
    while seen < units:
        found = sum(1 for _ in folder.glob("units/*/*.parquet"))
        if found > seen:
            seen = found
            moments.append(clocks_of_all())
        time.sleep(0.2)
    return moments


def spilled_bytes() -> float:
    """What Ray wrote to disk for lack of memory."""
    from ray._private.internal_api import memory_summary

    text = memory_summary(stats_only=True)
    line = next((line for line in text.splitlines() if line.startswith("Spilled")), "Spilled 0 MiB")
    return float(line.split()[1]) * 2**20


def waiting(units: int) -> None:
    """One actor a stage, two scrolls of 1024x4096 a unit: what Ray and the rest add to the waits."""
    (seconds, spent), _ = on_ray(sleepers(5.0, 1024, 4096, 1), units, 700)
    bare = (units - 1) * 2 * 5.0
    print(
        f"waiting: {units - 1} units, wall time from the first to the last: waits {bare:.1f} s, on Ray "
        f"{seconds:.1f} s, ratio {seconds / bare:.3f}; CPU {spent:.1f} s"
    )


def scaling(units: int) -> None:
    """Units per second of 8 sleeping actors against 2."""
    rates = {}
    for actors in (2, 8):
        (seconds, _), _ = on_ray(sleepers(1.0, 256, 1024, actors), units, 500)
        rates[actors] = (units - actors) / seconds
    share = rates[8] / rates[2] / 4
    print(f"scaling: 2 actors {rates[2]:.2f}/s, 8 actors {rates[8]:.2f}/s, {share:.1%} of linear")


def spill(units: int) -> None:
    """Images of 12.6 MB, two a prompt, in an object store of 700 MB."""
    (seconds, _), spilled = on_ray(sleepers(0.5, 1024, 4096, 2), units, 700)
    print(f"spill: {units} units of 25 MB in {seconds:.1f} s, {spilled / 2**20:.0f} MiB spilled")


def resume(files: int) -> None:
    """A start that finds all done; and a listing of many unit files."""
    with tempfile.TemporaryDirectory() as folder:
        ideas = Path(folder) / "ideas.txt"
        ideas.write_text("\n".join(f"a castle on hill number {i}" for i in range(50)))
        config = replace(
            sleepers(0.0, 32, 128, 1),
            out=f"{folder}/run",
            prompts=PromptSettings(source=str(ideas)),
            expand=ExpandSettings(expander="none"),
            filter=FilterSettings(near_duplicates=0),
        )
        Build(config, run_units)()
        began = time.monotonic()
        Build(config, run_units)()
        print(f"resume: nothing to do for 50 units, {time.monotonic() - began:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for index in range(files):
            unit = content_hash(index)
            path = Path(folder) / "units" / unit[:2] / f"{unit}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        store = stage_spec(BuildConfig(), folder).store()
        began = time.monotonic()
        found = len(store.done())
        print(f"resume: {found} unit files listed in {time.monotonic() - began:.2f} s")


def journal(count: int) -> None:
    """How many files the answers are, and how many reads it takes to sum what they cost and to find some."""
    reads: Counter[str] = Counter()
    storage = Storage(f"memory://journal-{os.getpid()}")
    for name in ("read", "open", "list"):
        count_calls(storage, name, reads)
    written = Journal(storage)
    for start in range(0, count, 16):
        written.write([answered(number) for number in range(start, min(start + 16, count))])
    written.close()
    files = len(storage.list("cache/llm/"))
    reads.clear()
    found = Journal(storage)
    tokens = found.books().tokens
    summed = reads.total()
    reads.clear()
    some = range(0, count, max(1, count // 100))
    assert all(found.get(answered(number).request_hash) for number in some)
    print(
        f"journal: {count} answers in {files} files; {tokens} tokens summed with {summed} reads; "
        f"{len(some)} answers found with {reads.total()} reads"
    )


def count_calls(storage: Storage, name: str, calls: Counter[str]) -> None:
    """Count the calls of one of a storage's methods."""
    real = getattr(storage, name)

    def counted(*given: Any, **named: Any) -> Any:
        calls[name] += 1
        return real(*given, **named)

    setattr(storage, name, counted)


def answered(number: int) -> Line:
    """One answer of about the usual size."""
    key = content_hash("journal", number)
    return Line(
        request_hash=key, kind="ok", content="x" * 600, requests=1, prompt_tokens=300, completion_tokens=80
    )


def million(count: int) -> None:
    """Peak memory of a process that takes `count` prompts through phases 1 to 4."""
    if os.environ.get("DRSPO_BENCHMARK_CHILD"):
        _million(count)
        return
    env = {**os.environ, "DRSPO_BENCHMARK_CHILD": "1"}
    subprocess.run([sys.executable, "-m", HERE, "million", "--count", str(count)], env=env, check=True)


def random_lines(count: int) -> Iterator[str]:
    """Nine words of the corpus each, drawn at random."""
    words = (CORPUS / "outdoor.txt").read_text().split()
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield " ".join(words[index] for index in rng.integers(0, len(words), 9))


def _million(count: int) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ideas = Path(folder) / "ideas.txt"
        with ideas.open("w") as file:
            file.writelines(f"{line}\n" for line in random_lines(count))
        config = BuildConfig(out=f"{folder}/run", prompts=PromptSettings(source=str(ideas)))
        builder = Build(config, run_units)
        builder._begin()
        make_prompts(builder.run, builder.config)
        builder._plan()
        units = sum(piece.num_rows for piece in read_plan(builder.run))
        size = len(Storage(config.out).read("plan.parquet"))
    peak = peak_resident() / 2**30
    seconds = time.monotonic() - began
    print(
        f"million: {count} ideas, {units} units planned in {seconds:.0f} s, peak {peak:.2f} GiB, "
        f"plan of {size / 2**20:.0f} MiB"
    )


def ending(count: int) -> None:
    """Peak memory of the driver at the end of a run of `count` units, and what ten times as many add."""
    if os.environ.get("DRSPO_BENCHMARK_CHILD"):
        _ending(count)
        return
    peaks = {}
    for units in (count, 10 * count):
        command = [sys.executable, "-m", HERE, "ending", "--count", str(units)]
        env = {**os.environ, "DRSPO_BENCHMARK_CHILD": "1"}
        said = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(said, end="", flush=True)
        peaks[units] = float(said.split("grew by ")[1].split()[0]) * 2**20
    added = (peaks[10 * count] - peaks[count]) / (9 * count)
    print(f"ending: the driver's peak takes {added:.0f} bytes for each further unit")


def _ending(count: int) -> None:
    images = 6
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: what is taken for that is no memory of the driver.
        planning = multiprocessing.get_context("spawn").Process(target=_plan_simulated, args=(folder, count))
        planning.start()
        planning.join()
        assert not planning.exitcode
        builder = Build(_simulated(folder), run_units)
        store = simulated.Units(builder.run, builder.spec.config_hash, builder.spec.scorers, count, images)
        builder.store = store
        before = peak_resident()
        outcome = builder()
    peak = peak_resident()
    facts, pictures = (store.reads[what] / count for what in ("facts", "images"))
    print(
        f"ending: {count} units of {images} images to {sum(outcome.pairs.values())} pairs in "
        f"{len(outcome.shards)} shards, the driver grew by {(peak - before) / 2**20:.0f} MiB to "
        f"{peak / 2**20:.0f}, in {time.process_time():.0f} s of CPU time; "
        f"each unit was read {facts:g} times for its scores and {pictures:g} for its images"
    )


def _plan_simulated(folder: str, count: int) -> None:
    """Phases 1 to 4 of a run of so many units."""
    consent.allow(HERE)
    builder = Build(_simulated(folder), run_units)
    builder._begin()
    store_pieces(builder.run, PROMPTS_NAME, PROMPT_SCHEMA, simulated.prompts(count))
    store_pieces(builder.run, PLAN_NAME, PLAN_SCHEMA, simulated.plan(count, builder.spec.config_hash))


def _simulated(folder: str) -> BuildConfig:
    ideas = Path(folder) / "ideas.txt"
    ideas.write_text("a castle on a hill\n")
    return replace(sleepers(0.0, 64, 256, 1), out=f"{folder}/run", prompts=PromptSettings(source=str(ideas)))


PIECES = {
    "compact": (compact, 19_531),
    "ending": (ending, 10_000),
    "overhead": (overhead, 200),
    "ray": (overhead_of_ray, 40),
    "waiting": (waiting, 12),
    "scaling": (scaling, 96),
    "spill": (spill, 40),
    "resume": (resume, 100_000),
    "journal": (journal, 100_000),
    "million": (million, 1_000_000),
}


def main() -> None:
    """Run the named pieces, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pieces", nargs="*", default=list(PIECES), help=", ".join(PIECES))
    parser.add_argument("--count", type=int, default=0, help="units, files or prompts; 0 is the piece's own")
    asked = parser.parse_args()
    consent.allow(HERE)
    for name in asked.pieces:
        piece, count = PIECES[name]
        piece(asked.count or count)


if __name__ == "__main__":
    main()
