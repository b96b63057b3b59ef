"""The page of a training: its curves, samples and losses, from files alone, at any moment of a run."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from drspo import view
from drspo.cli import execute
from drspo.files.run import RunDir
from train.config import TrainConfig, identity
from train.report import lines
from train.report.page import read_training

EVIL = "</script><script>alert(1)</script> a castle"


def lay(folder, steps=120, **missing):
    """A training's folder as its program leaves it after so many steps."""
    config = TrainConfig(out=str(folder), max_steps=200)
    RunDir(folder).start("train", config, identity(config))
    rows = [
        {"step": n, "preference_loss": 0.7 - n / 1000, "accuracy": (n % 4) / 3, "margin": n / 50, "lr": 1e-4}
        for n in range(1, steps + 1)
    ]
    held = [{"step": n, "pairs": 40, "accuracy": 0.5 + n / 1000, "margin": n / 90} for n in (0, 50, 100)]
    pairs = {"train": [{"prompt": "a hill"}] * 9, "held_out": [{"prompt": EVIL}, {"prompt": "a lake"}] * 4}
    dropped = [{"pair_id": f"p{n}", "reason": "unequal sizes: chosen 8 x 8"} for n in range(7)]
    timings = [{"step": n, "seconds": 2.0, "peak_mib": 2048.0} for n in range(1, steps + 1)]
    for name, found in {"metrics": rows, "validation": held, "dropped": dropped, "timings": timings}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    for step in (0, 100):
        place = folder / "samples" / f"step-{step:06d}"
        place.mkdir(parents=True)
        Image.new("RGB", (64, 16), "navy").save(place / "00.png")
    return folder


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.pictures, self.charts, self.links, self.scripts = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            self.pictures.append(found["src"])
        if tag == "svg" and "aria-label" in found:
            self.charts.append(found["aria-label"])
        if tag == "a":
            self.links.append(found["href"])
        self.scripts += tag == "script"


def page_of(folder, capsys) -> tuple[Page, str]:
    assert execute(view.main, [str(folder)]) == 0
    said = capsys.readouterr().out
    assert str(folder / "index.html") in said and "--lora" in said
    text = (folder / "index.html").read_text()
    return Page(text), text


def test_the_page_shows_curves_samples_and_what_was_left_out(tmp_path, capsys):
    page, text = page_of(lay(tmp_path / "run"), capsys)
    assert page.pictures == ["samples/step-000100/00.png", "samples/step-000000/00.png"] == page.links
    assert all((tmp_path / "run" / name).exists() for name in page.pictures)
    assert any("held-out implicit accuracy: at step 0 0.5" in label for label in page.charts)
    assert any("learning rate" in label for label in page.charts)
    assert "120 of 200 steps" in text and "7 rows: unequal sizes" in text
    assert page.scripts == 1 and "alert(1)</script>" not in text, "a prompt is text"
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


@pytest.mark.parametrize(
    "lost", ["metrics", "validation", "timings", "dropped", "pairs", "samples", "config"]
)
def test_a_run_at_any_moment_has_a_page(tmp_path, capsys, lost):
    folder = lay(tmp_path / "run")
    for place in folder.glob(f"{lost}*"):
        place.rename(tmp_path / place.name)
    page_of(folder, capsys)


def test_a_last_line_that_was_cut_is_left_out(tmp_path):
    folder = lay(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 121, "prefer')
    assert read_training(folder).done == 120


def test_what_is_no_training_keeps_its_own_page_or_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert execute(view.main, [str(tmp_path / "empty")]) == 2
    assert "neither a run nor an export" in capsys.readouterr().err


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400))
def test_a_point_lies_in_its_interval_and_among_its_values(values):
    points = lines.binned(list(enumerate(values)))
    assert 0 < len(points) <= lines.BINS
    assert all(point.low <= point.mean <= point.high for point in points)
    slack = 1e-9 * max(map(abs, values)) + 1e-12
    assert all(min(values) - slack <= point.mean <= max(values) + slack for point in points)
    drawing = lines.draw("x", points)
    assert drawing.startswith("<svg") and "nan" not in drawing


@pytest.mark.parametrize(
    ("rate", "count", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (1.0, 4, 0.5101, 1.0)]
)
def test_a_share_has_wilsons_interval(rate, count, low, high):
    point = lines.share(3, rate, count)
    assert (point.low, point.high) == pytest.approx((low, high), abs=1e-4)
