"""The gallery: complete, self-contained, safe, also of a run that is not finished."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from dataset_builder.report.gallery import read_gallery, render, spread, thumbnail
from dataset_builder.report.view import main
from drspo.errors import UserError
from pipeline.settings import PairSettings
from pipeline.shards import read_pairs
from tests.building import IDEAS, build, fake_config

EVIL = "a lake </script><img src=x onerror=alert(1)> below hills"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    ideas = [*IDEAS[:4], EVIL, "", "a cosy kitchen"]
    build(fake_config(folder, folder / "out", ideas, pairs=PairSettings(validation_fraction=0.4)))
    return folder / "out"


def test_every_group_shows_all_candidates_best_first_with_its_pair_marked(run):
    gallery = read_gallery(str(run), 0, 32)
    assert len(gallery.groups) == gallery.total == 5
    pairs = {
        pair["prompt"]: pair for split in ("train", "validation") for pair in read_pairs(str(run), split)
    }
    for group in gallery.groups:
        scores = [strip.score for strip in group.strips]
        assert scores == sorted(scores, reverse=True) and len(scores) == 4
        assert [strip.role for strip in group.strips] == ["chosen", "", "", "rejected"]
        assert group.margin == pairs[group.prompt]["margin"] and group.split == pairs[group.prompt]["split"]


def test_the_funnel_counts_and_shows_examples_of_what_was_lost(run):
    gallery = read_gallery(str(run), 0, 32)
    assert gallery.funnel[0]["lost"] == {"empty": 1, "rules indoor": 1}
    assert gallery.examples["rules indoor"] == ["a cosy kitchen \u2014 rules indoor: kitchen"]
    page = render(gallery)
    assert "a cosy kitchen" in page and "1 lost: rules indoor" in page


class Loads(HTMLParser):
    """Collects every address a page would fetch, and whether a handler or a foreign script is in it."""

    def __init__(self):
        super().__init__()
        self.addresses, self.handlers, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_page_is_one_file_without_network_and_a_prompt_cannot_inject(run):
    page = render(read_gallery(str(run), 0, 32))
    seen = Loads()
    seen.feed(page)
    assert seen.scripts == 1 and not seen.handlers
    assert seen.addresses and all(address.startswith("data:image/webp;base64,") for address in seen.addresses)
    assert "@import" not in page and not re.search(r"url\(\s*['\"]?http", page)
    assert EVIL not in page and "a lake &lt;/script&gt;" in page


def test_pictures_are_reduced_to_the_asked_height_and_keep_their_shape():
    buffer = io.BytesIO()
    Image.new("RGB", (400, 100), "red").save(buffer, "PNG")
    data = base64.b64decode(thumbnail(buffer.getvalue(), 50).partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (200, 50)
    data = base64.b64decode(thumbnail(buffer.getvalue(), 300).partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (400, 100), "never enlarged"


def test_a_limit_takes_groups_evenly_and_says_so(run):
    gallery = read_gallery(str(run), 2, 32)
    assert len(gallery.groups) == 2 and gallery.total == 5
    assert "2 of 5 groups shown" in render(gallery)
    assert spread(list("abcdef"), 3) == ["a", "c", "e"] and spread(["a"], 0) == ["a"]


def test_an_unfinished_run_can_be_seen(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    units = sorted((tmp_path / "run/units").rglob("*.parquet"))
    units[0].unlink()
    units[1].write_bytes(units[1].read_bytes()[:100])
    shutil.rmtree(tmp_path / "run/export")
    (tmp_path / "run/stats.json").unlink()
    gallery = read_gallery(str(tmp_path / "run"), 0, 32)
    assert len(gallery.groups) == 3 and gallery.counts["images"] == 12


def test_an_export_alone_shows_its_pairs(run):
    gallery = read_gallery(str(run / "export"), 0, 32)
    assert len(gallery.groups) == gallery.counts["pairs"] == 5 and not gallery.funnel
    assert all([s.role for s in group.strips] == ["chosen", "rejected"] for group in gallery.groups)
    assert "5 of 5 pairs shown" in render(gallery)


def test_the_command_writes_into_the_run_or_where_asked(run, tmp_path, capsys):
    assert main([str(run)]) == 0
    assert (run / "gallery/index.html").read_text().startswith("<!doctype html>")
    assert main([str(run), "--out", str(tmp_path / "a/b.html"), "--groups", "1"]) == 0
    assert str(tmp_path / "a/b.html") in capsys.readouterr().out and (tmp_path / "a/b.html").exists()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a run nor an export"):
        main([str(tmp_path)])
    with pytest.raises(UserError, match="cannot be seen"):
        main([str(tmp_path), "--height", "2"])
