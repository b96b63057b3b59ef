"""The readers that `fuzz.py` feeds: what each is given, whole, and the code of ours that takes it in."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzz_inputs import ROOT, Reader, finished_run, linked, quiet
from benchmarks.fuzz_weights import Checkpoint, Lora
from benchmarks.mutations import mutate_bytes, mutate_file, mutate_json, mutate_value, mutate_yaml
from drspo.errors import UserError


class Record:
    """A scroll's file, for --like, up to where the weights would be loaded."""

    def __init__(self) -> None:
        quiet()
        from PIL import Image

        from generate.program import metadata
        from generate.request import Request

        request = Request(prompt="a castle", height=128, width=512, seed=3, steps=2, guidance_scale=3.0)
        record = metadata.Record(
            request=request,
            model="miniature",
            fingerprint="abc",
            method="drspo",
            settings={"strength": 0.7, "windows": {"stride": 32}},
            versions=metadata.versions(),
            options={"device": "cpu", "dtype": "float32", "threads": 1, "window_batch": 2},
        )
        self.values = {"format": 1, **record.to_dict()}
        self.image = Image.new("RGB", (64, 16), "teal")
        self.files = {s: metadata.encode(self.image, record, s) for s in (".png", ".webp")}

    def prepare(self, folder: Path, rng: random.Random) -> None:
        path = folder / "scroll.png"
        if rng.random() < 0.5:
            path.write_bytes(mutate_bytes(self.files[rng.choice([".png", ".webp"])], rng))
            return
        from PIL import PngImagePlugin

        text = mutate_json(json.dumps(self.values).encode(), rng).decode("utf-8", "replace")
        chunks, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
        chunks.add_itxt("drspo", text, zip=rng.random() < 0.2)
        self.image.save(buffer, "PNG", pnginfo=chunks)
        path.write_bytes(buffer.getvalue())

    def read(self, folder: Path) -> None:
        from generate.program import command

        def stop(setup: Any) -> None:
            from generate.program.session import needs_control

            needs_control(setup.method, setup.settings)
            raise UserError("here the weights would be loaded")

        before, command.open_session = command.open_session, stop
        try:
            command.main(["--like", str(folder / "scroll.png"), "--out", str(folder / "again.png")])
        finally:
            command.open_session = before


class Yaml:
    """A configuration file, for each of the four programs and the vocabulary, with all early checks."""

    def __init__(self) -> None:
        quiet()
        presets = {p: ROOT / p / "presets" / "miniature.yaml" for p in ("train", "eval", "dataset_builder")}
        self.texts = {package: path.read_bytes() for package, path in presets.items()}
        self.texts["generate"] = (ROOT / "generate/presets/draft.yaml").read_bytes()
        self.texts["words"] = (ROOT / "pipeline/ideas/words/miniature.yaml").read_bytes()

    def prepare(self, folder: Path, rng: random.Random) -> None:
        package = rng.choice(sorted(self.texts))
        (folder / f"{package}.yaml").write_bytes(mutate_yaml(self.texts[package], rng))

    def read(self, folder: Path) -> None:
        [path] = folder.glob("*.yaml")
        getattr(self, path.stem)(["--config", str(path), "--out", str(folder / "out")], path)

    def words(self, argv: list[str], path: Path) -> None:
        from pipeline.ideas.grammar import load_words

        load_words.__wrapped__(str(path)).compose("a castle at dusk", "0" * 32)

    def train(self, argv: list[str], path: Path) -> None:
        from train.command import check_config, parse

        check_config(parse([*argv, "--data.source", "none"]))

    def eval(self, argv: list[str], path: Path) -> None:
        from drspo.config import load
        from eval.config import EvalConfig
        from eval.program import check

        check(load(EvalConfig, argv, package="eval", prog="eval"))

    def dataset_builder(self, argv: list[str], path: Path) -> None:
        from dataset_builder.build import check
        from dataset_builder.config import BuildConfig
        from drspo.config import load

        check(load(BuildConfig, argv, package="dataset_builder", prog="build"))

    def generate(self, argv: list[str], path: Path) -> None:
        from drspo.config import load
        from generate.program.command import _check_early, _setup
        from generate.program.config import Config

        config = load(Config, [*argv[:2], "--out", "x.png"], package="generate", prog="generate")
        _check_early(config, _setup(config))


class RunFolder:
    """A run folder of somebody else's: status, gallery, retry and the next start of the builder."""

    def __init__(self, endings: tuple[str, ...]) -> None:
        quiet()
        self.run, self.endings = finished_run(), endings

    def prepare(self, folder: Path, rng: random.Random) -> None:
        linked(self.run, folder / "run")
        files = [p for p in sorted((folder / "run").rglob("*")) if p.suffix in self.endings and p.is_file()]
        for path in rng.sample(files, min(len(files), rng.choice([1, 1, 2]))):
            mutate_file(path, rng)

    def read(self, folder: Path) -> None:
        from dataset_builder import retry
        from dataset_builder.report import status, view
        from drspo.files.run import RunDir

        run = str(folder / "run")
        refused: list[UserError] = []
        programs: list[Callable[[list[str]], int]] = [status.main, view.main, retry.main]
        for program in programs:
            try:
                program([run])
            except UserError as error:
                refused.append(error)
        RunDir(run).manifest()
        if refused:
            raise refused[0]


def json_reader() -> Reader:
    """run.json, stats.json, metrics.jsonl and the ledgers of a run."""
    return RunFolder((".json", ".jsonl"))


def parquet_reader() -> Reader:
    """Plan, prompts, scores and units of a run."""
    return RunFolder((".parquet",))


class DataSet:
    """An export: its shards as the trainer reads them, pictures decoded."""

    def __init__(self) -> None:
        quiet()
        self.export = finished_run() / "export"

    def prepare(self, folder: Path, rng: random.Random) -> None:
        linked(self.export, folder / "export")
        path = rng.choice(sorted((folder / "export" / "data").glob("*.parquet")))
        if rng.random() < 0.5:
            mutate_file(path, rng)
            return
        import pyarrow.parquet as pq

        rows = pq.read_table(path).select(["prompt", "chosen", "rejected", "pair_id"]).to_pylist()
        for row in rows:
            for side in ("chosen", "rejected"):
                row[side]["bytes"] = mutate_bytes(row[side]["bytes"], rng)
                row[side]["path"] = rng.choice(["/etc/hostname", "../x", "", None])
        path.unlink()
        self._write(rows, mutate_value(rows[0], rng) if rng.random() < 0.3 else None, path)

    def _write(self, rows: list[dict[str, Any]], changed: Any, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError)
        buffer = io.BytesIO()
        try:
            pq.write_table(
                pa.Table.from_pylist([changed, *rows] if isinstance(changed, dict) else rows), buffer
            )
        except kinds:  # Arrow holds or writes no such mixture
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), buffer)
        path.write_bytes(buffer.getvalue())

    def read(self, folder: Path) -> None:
        from train.pairs.rows import Dropped, PairRow, canvas_picture, check_pair, read_rows

        for split in ("train", "validation"):
            for row in read_rows(str(folder / "export"), split):
                if isinstance(row, PairRow):
                    with contextlib.suppress(Dropped):
                        check_pair(row, 32, 64, "none")
                        canvas_picture(row.chosen, 32, 64)
                        canvas_picture(row.rejected, 32, 64)


class Prompts:
    """A prompts file of any kind, for the builder, the generator and the benchmark; and templates."""

    def __init__(self) -> None:
        quiet()
        import pyarrow as pa
        import pyarrow.parquet as pq

        ideas = ["a lighthouse at dusk", "ein Schloß über dem Tal", 'a "quoted" lake, wide', "山の湖"] * 3
        buffer = io.BytesIO()
        pq.write_table(pa.table({"prompt": ideas, "n": list(range(len(ideas)))}), buffer)
        lines = "".join(json.dumps({"prompt": idea, "n": 1}) + "\n" for idea in ideas)
        self.files = {
            "ideas.txt": "\n".join(ideas).encode(),
            "ideas.jsonl": lines.encode(),
            "ideas.csv": b"prompt,n\n" + "".join(f'"{i}",1\n' for i in ideas if '"' not in i).encode(),
            "ideas.tsv": b"prompt\tn\n" + "".join(f"{i}\t1\n" for i in ideas).encode(),
            "ideas.parquet": buffer.getvalue(),
            "template.md": (ROOT / "pipeline/ideas/templates/expand.md").read_bytes(),
        }

    def prepare(self, folder: Path, rng: random.Random) -> None:
        name = rng.choice(sorted(self.files))
        (folder / name).write_bytes(mutate_bytes(self.files[name], rng))

    def read(self, folder: Path) -> None:
        from drspo.llm.template import read_template
        from eval.benchmark.prompt_lists import read_prompts as of_eval
        from generate.program.jobs import read_prompts as of_generate
        from pipeline.ideas.prompts import ingest
        from pipeline.ideas.sources import PromptSettings

        [path] = folder.iterdir()
        if path.suffix == ".md":
            read_template.__wrapped__(path, path.name).messages(idea="a lake", count=1, max_words=9)
            return
        refused = None
        if path.suffix == ".txt":
            for reader in (of_eval, lambda name: of_generate(Path(name))):
                try:
                    reader(str(path))
                except UserError as error:
                    refused = error
        ingest(PromptSettings(source=str(path)))
        if refused:
            raise refused


READERS: dict[str, Callable[[], Reader]] = {
    "record": Record,
    "yaml": Yaml,
    "json": json_reader,
    "parquet": parquet_reader,
    "safetensors": lambda: Lora(facts=False),
    "lora-folder": lambda: Lora(facts=True),
    "checkpoint": Checkpoint,
    "prompts": Prompts,
    "data-set": DataSet,
}
