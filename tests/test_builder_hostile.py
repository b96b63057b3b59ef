"""Text that others wrote, in every page and card of ours: shown as it was written, run by nobody."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from dataset_builder.report import charts
from dataset_builder.report.card import card_files
from dataset_builder.report.gallery import render
from dataset_builder.report.groups import Gallery, Group, Strip
from drspo.files.run import RunDir
from tests.building import build, fake_config

EVIL = (
    "a lake\"><script>document.title='HURT'</script><img src=x onerror=\"document.title='HURT'\"> "
    "' onmouseover='document.title=1' [click](javascript:alert(1)) ![x](y) | `z` </title></style> {{ 7*7 }} "
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Reader(HTMLParser):
    """The tags, attributes and addresses of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name.startswith("on"):
                self.handlers.append(f"{name}={value}")
            if name in ("src", "href", "data", "action", "formaction", "srcdoc"):
                self.addresses.append(value or "")

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text += data


def check(page: str, scripts: int = 0) -> Reader:
    found = Reader(page)
    assert found.tags.count("script") == scripts and not found.handlers
    assert not set(found.tags) & {"iframe", "object", "embed", "form", "base", "link", "meta"} - {"meta"}
    assert not [
        address for address in found.addresses if address.startswith("javascript:") or address in "xy"
    ]
    return found


def gallery_page() -> str:
    strips = tuple(
        Strip(generator=EVIL, seed=1, score=1.0, scores={EVIL: 1.0}, picture=None, role=role, error=EVIL)
        for role in ("chosen", "rejected")
    )
    histogram = {"edges": [0.0, 1.0], "counts": [1]}
    drawings = [charts.distributions(EVIL, {EVIL: histogram}), charts.win_matrix({EVIL: {EVIL: 0.5}})]
    gallery = Gallery(EVIL, {"pairs": 1}, [Group(prompt=EVIL, strips=strips, margin=1.0, split=EVIL)], 1)
    gallery.funnel = [{"step": EVIL, "count": 1, "lost": {EVIL: 1}}]
    gallery.examples, gallery.drawings = {EVIL: [EVIL]}, drawings
    return render(gallery, 32)


def demo_page(folder, monkeypatch) -> str:
    from drspo.demo import page
    from drspo.demo.config import DemoConfig
    from tests import test_drspo_demo as made

    monkeypatch.setattr(made, "captions", lambda scene: [EVIL])
    config = DemoConfig(out=str(folder / "demo"), prompt=EVIL)
    run = made.finished_run(folder, config)
    page.write_page(run, config, [EVIL])
    return run.read("index.html").decode()


def evaluation(folder) -> tuple[str, str]:
    """The page and the tables."""
    from eval.benchmark.cells import Cell
    from eval.benchmark.records import Record
    from eval.benchmark.suite import cells
    from eval.config import EvalConfig
    from eval.report.comparison import Comparison
    from eval.report.markdown import markdown
    from eval.report.page import write_report

    config = EvalConfig(model=EVIL, methods=("sdxl",), baseline="sdxl", out=str(folder / "eval"))
    run, buffer = RunDir(config.out), io.BytesIO()
    Image.new("RGB", (64, 16), "red").save(buffer, "PNG")
    prompts = list(dict.fromkeys(cell.prompt for cell in cells(config)))
    for prompt in prompts:
        run.write(Cell("sdxl", prompt, 0).name, buffer.getvalue())
    facts = {"unit": EVIL, "view": EVIL, "checkpoint": EVIL, "checkpoint_hash": EVIL}
    facts |= {"method": "sdxl", "seed": 0, "scorer": EVIL, "higher_is_better": True}
    records = [Record(prompt=prompt, value=1.0, **facts) for prompt in prompts[1:]]
    records.append(Record(prompt=prompts[0], value=float("nan"), error=EVIL, **facts))
    found = Comparison(records, "sdxl")
    write_report(config, run, found)
    return run.read("index.html").decode(), markdown(found)


def data_card(folder) -> str:
    config = fake_config(folder, folder / "run", [EVIL, f"{EVIL} and hills"])
    build(config)
    run = RunDir(folder / "run")
    facts = json.loads(run.read("run.json"))
    facts["config"]["prompts"]["source"] = facts["config"]["candidates"]["model"] = EVIL
    facts["versions"][EVIL], facts["revision"] = EVIL, EVIL
    run.write("run.json", json.dumps(facts).encode())
    run.write("models/x.json", json.dumps({"model": EVIL, "revision": EVIL, "weights": EVIL}).encode())
    figures = json.loads(run.read("stats.json"))
    figures["funnel"][0]["lost"] = {EVIL: 3}
    run.write("stats.json", json.dumps(figures).encode())
    return card_files(run, "me/scrolls", "mit")["README.md"].decode()


def lora_card(folder) -> str:
    from train.config import TrainConfig
    from train.report.card import write_card

    facts = dict.fromkeys(("stage", "base_fingerprint", "dataset", "base_model", "time_ids", "stopped"), EVIL)
    numbers = dict.fromkeys(
        ("rank", "alpha", "pairs", "step", "pairs_per_step", "skipped_steps", "stride"), 1
    )
    sizes = {"canvas": [64, 256], "window": [64, 64], "versions": {EVIL: EVIL}, "targets": [EVIL]}
    folder.joinpath("lora").mkdir()
    config = replace(TrainConfig(), model=f"{EVIL}\n```\n~~~\n<script>document.title='HURT'</script>")
    write_card(folder / "lora", {**facts, **numbers, **sizes}, config, f"some/{EVIL}")
    return (folder / "lora/README.md").read_text()


def as_page(card: str) -> str:
    """The card as a Markdown renderer shows it, without its YAML head, which no renderer does."""
    body = card.split("---", 2)[2] if card.startswith("---") else card
    return f"<title>card</title>{MARKDOWN.render(body)}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("hostile")
        page, tables = evaluation(folder)
        return {
            "gallery": gallery_page(),
            "demo": demo_page(folder, patch),
            "evaluation": page,
            "tables": as_page(tables),
            "data card": as_page(data_card(folder)),
            "LoRA card": as_page(lora_card(folder)),
        }


SCRIPTS = {"gallery": 2, "demo": 1, "evaluation": 3}
"""Our own scripts in each page; the evaluation's data is one of them."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_foreign_text_in_a_page_is_text(pages, name):
    found = check(pages[name], scripts=SCRIPTS[name])
    assert EVIL.strip() in found.text and "49" not in found.text.replace(EVIL, "").split()


@pytest.mark.parametrize("name", ["data card", "LoRA card", "tables"])
def test_foreign_text_in_a_card_is_text(pages, name):
    found = check(pages[name])
    shown = " ".join(found.text.replace("\u200b", "").split())
    assert " ".join(EVIL.split())[:100] in shown
    allowed = ("assets/", "#")
    assert all(address.startswith(allowed) for address in found.addresses), found.addresses


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
@pytest.mark.parametrize("name", ["gallery", "demo", "evaluation", "data card", "LoRA card", "tables"])
def test_a_real_browser_runs_nothing_of_it(pages, name, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(pages[name])
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title and title != "HURT" and "<h" in done.stdout.partition("</title>")[2]


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
def test_the_browser_would_have_run_it(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<title>x</title><p>{EVIL}")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "<title>HURT</title>" in done.stdout
