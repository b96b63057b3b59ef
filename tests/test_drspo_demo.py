"""The demonstration: its plan, its page from plain files, and its refusals."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from drspo import cli, log
from drspo.demo import command as demo
from drspo.demo import page as demo_page
from drspo.demo import story as demo_story
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from drspo.web import viewer
from miniature.world import captions, paint, sample_scene
from pipeline import records

GENERATORS = ("multidiffusion", "sdxl", "mad")


def encoded(seed: int, height: int = 128, width: int = 512, kind: str = "WEBP") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(paint(sample_scene(seed, height, width))).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def candidates(prompt: int) -> tuple[records.Candidate, ...]:
    return tuple(
        records.Candidate(
            candidate_id=f"{prompt}-{generator}-{index}",
            generator=generator,
            seed=1000 * prompt + index,
            image={"bytes": encoded(10 * prompt + place), "path": ""},
            scores={"aesthetic": 4.0 + 0.3 * place + 0.1 * prompt},
            scorer_versions={"aesthetic": "v"},
            rank=6 - place,
            seconds=1.5,
        )
        for place, (generator, index) in enumerate((g, i) for g in GENERATORS for i in range(2))
    )


def finished_run(folder: Path, config: demo.DemoConfig, prompts: int = 3) -> RunDir:
    """A run folder as the four phases leave it, with drawn scenes for pictures."""
    run, data = RunDir(config.out), Storage(f"{config.out}/data")
    run.start("demo", config, "h")
    texts = [captions(sample_scene(number, 128, 512))[0] for number in range(prompts)]
    accepted = [records.Prompt(prompt_id=str(n), text=t, source_text="an idea") for n, t in enumerate(texts)]
    dropped = records.Prompt(prompt_id="x", text="a kitchen", status="dropped", reason="indoors")
    data.write("prompts.parquet", as_bytes(records.prompt_table([*accepted, dropped])))
    pairs = []
    for number, text in enumerate(texts):
        ids = {"unit_id": f"u{number}", "prompt_id": str(number), "parent_id": "", "config_hash": "c"}
        row = records.UnitRow(**ids, prompt=text, status="ok", candidates=candidates(number))
        data.write(f"units/aa/u{number}.parquet", as_bytes(records.unit_table([row], ["aesthetic"])))
        best, worst = row.candidates[-1].candidate_id, row.candidates[0].candidate_id
        pairs.append(
            {
                "prompt_id": str(number),
                "prompt": text,
                "chosen_id": best,
                "rejected_id": worst,
                "margin": 1.5 + 0.1 * number,
                "split": "train",
            }
        )
    data.write("export/data/train-00000-of-00001.parquet", as_bytes(pa.Table.from_pylist(pairs)))
    for stage in demo.STAGES:
        steps = [
            {"step": s, "loss": 0.7 - 0.01 * s + 0.05 * (s % 3), "margin": 0.02 * s} for s in range(1, 25)
        ]
        run.write(f"lora/{stage}/metrics.jsonl", "\n".join(map(json.dumps, steps)).encode())
        run.phase_done(stage, seconds=20.5)
    for name, seed in (("scroll", 1), ("scroll-untrained", 2), ("scroll.blueprint", 3), ("scroll.lines", 4)):
        run.write(f"{name}.png", encoded(seed, kind="PNG"))
    run.phase_done("data", seconds=100.0)
    run.phase_done("scroll", seconds=18.2)
    return run


def as_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    config = demo.DemoConfig(out=str(tmp_path_factory.mktemp("demo")))
    run = finished_run(Path(config.out), config)
    demo_page.write_page(run, config, demo.shown_commands(config))
    return run.read("index.html").decode()


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.links: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        if tag == "img":
            self.images.append(dict(attributes))
        if tag == "a":
            self.links.append(dict(attributes))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        """A shape such as <rect/> holds nothing."""

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_page_needs_no_other_file(page):
    tags = Tags(page)
    assert tags.open == []
    assert len(tags.images) == 6 + 2 * 2 + 5
    assert all(image["src"].startswith("data:image/") for image in tags.images)
    assert not re.search(r"https?://", page)


def test_every_picture_opens_in_the_viewer_beside_those_it_is_compared_with(page):
    tags = Tags(page)
    groups = Counter(link["data-scroll"] for link in tags.links)
    assert groups == {"": 1, "group": 6, "pair 1": 2, "pair 2": 2, "scroll": 4}
    assert sum(groups.values()) == len(tags.images) and viewer() in page
    assert all(link["href"] == "#" for link in tags.links), "the pictures are in the page"


def test_no_word_stands_among_a_curve_s_points(page):
    for chart in re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL):
        words = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"', chart)
        points = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart)]
        assert words and points
        for x, y in ((float(x), float(y)) for x, y in words):
            assert x < min(px for px, _ in points) or y > max(py for _, py in points) + 8
    assert page.count("dashed: ln 2: no preference") == 2


def test_the_page_shows_the_widest_group_best_first_with_its_pair(page):
    scores = [float(text) for text in re.findall(r'class="score">([\d.]+)<', page)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 6
    assert scores[0] == pytest.approx(4.0 + 0.3 * 5 + 0.2)
    assert page.count('class="card candidate chosen"') == page.count('class="card candidate rejected"') == 1
    assert "by a margin of\n      1.70 points" in page


def test_the_page_draws_every_step_of_both_trainings(page):
    assert page.count("<polyline") == 4 and page.count("<circle cx=") >= 4 * 24


def test_the_page_shows_accepted_prompts_only(page):
    assert "a kitchen" not in page and page.count("from “an idea”") == 3


def test_the_page_gives_the_commands_that_made_it(page):
    assert page.count("python -m ") == 5


def test_a_second_run_says_that_all_is_done_and_starts_nothing(tmp_path, capsys, monkeypatch):
    config = demo.DemoConfig(out=str(tmp_path / "demo"))
    run = finished_run(tmp_path, config)
    run.delete("run.json")
    monkeypatch.setattr(
        demo, "perform", lambda run, phases, todo: [run.phase_done(p.name, seconds=1.0) for p in todo]
    )
    assert demo.main(["--out", config.out]) == 0
    monkeypatch.setattr(demo, "perform", None)
    capsys.readouterr()
    assert demo.main(["--out", config.out]) == 0
    said = capsys.readouterr().out
    assert "All is done already" in said and str(tmp_path / "demo" / "index.html") in said


def test_a_killed_demonstration_goes_on_with_the_phase_it_was_in(tmp_path, monkeypatch):
    started: list[str] = []
    crash = {"armed": True}

    def program(part, listener) -> None:
        started.append(" ".join(word for word in part.argv if word in (*demo.STAGES, "drspo")) or "build")
        if started[-1] == "highres" and crash["armed"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_program", program)
    monkeypatch.setattr(demo, "write_page", lambda *_: None)
    out = str(tmp_path / "demo")
    with pytest.raises(KeyboardInterrupt):
        demo.main(["--out", out])
    assert started == ["build", "blueprint", "highres"]
    started.clear()
    crash["armed"] = False
    assert demo.main(["--out", out]) == 0
    assert started == ["highres", "drspo", "drspo"]


def test_the_bar_moves_by_the_work_that_the_programs_report():
    config = demo.DemoConfig()
    phases = demo.plan(config)
    total = sum(phase.work for phase in phases)
    bar, inner = log.Progress(total, "demo", ""), log.Progress(10, "training highres", "steps")
    program = phases[2].programs[0]
    base = phases[0].work + phases[1].work
    hear = demo.follower(program, base, bar, "3/4")
    inner.done = 5
    hear(inner)
    assert bar.done == base + program.work // 2
    hear(log.Progress(10, "something else", "pairs"))
    assert bar.done == base + program.work // 2
    assert phases[2].work == 13 * phases[1].work


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--out", "s3://bucket/run"], "local folder"),
        (["--prompts", "1"], "from 3 up"),
        (["--train-steps", "0"], "--train-steps"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(tmp_path)
    assert cli.execute(demo.main, argv) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_image_of_an_unknown_kind_is_not_embedded():
    with pytest.raises(UserError, match="GIF"):
        demo_story.picture_source(b"GIF89a")
