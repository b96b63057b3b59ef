"""The gallery: complete, with its pictures beside it, safe, also of a run that is not finished."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_builder.folder import begin
from dataset_builder.ideas import texts
from dataset_builder.report.gallery import read_gallery, render
from dataset_builder.report.groups import spread
from dataset_builder.report.pictures import WIDEST, kept, reduce
from dataset_builder.report.view import main, write
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from pipeline.pairs import heaps, scores
from pipeline.pairs.columns import Column, Score, claim_column, write_scores
from pipeline.settings import PairSettings
from pipeline.shards import read_pairs
from tests.building import IDEAS, begun, build, fake_config

EVIL = "a lake </script><img src=x onerror=alert(1)> below hills"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    ideas = [*IDEAS[:4], EVIL, "", "a cosy kitchen"]
    build(fake_config(folder, folder / "out", ideas, pairs=PairSettings(validation_fraction=0.4)))
    return folder / "out"


def seen(where: str, limit: int):
    return read_gallery(where, limit, 32, lambda name, data: None)


def test_every_group_shows_all_candidates_best_first_with_its_pair_marked(run):
    gallery = seen(str(run), 0)
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
    gallery = seen(str(run), 0)
    assert gallery.funnel[0]["lost"] == {"empty": 1, "rules not outdoor": 1}
    assert gallery.examples["rules not outdoor"] == ["a cosy kitchen \u2014 rules not outdoor: kitchen"]
    page = render(gallery, 32)
    assert "a cosy kitchen" in page and "1 lost: rules not outdoor" in page


class Loads(HTMLParser):
    """Collects what a page would fetch and where its links lead, and whether a handler is in it."""

    def __init__(self):
        super().__init__()
        self.fetched, self.links, self.handlers, self.scripts = [], [], [], 0

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.fetched += [value for name, value in attributes if name in ("src", "action", "srcset")]
        self.links += [value for name, value in attributes if name == "href"]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


def test_the_page_needs_its_pictures_and_no_network_and_a_prompt_cannot_inject(run, tmp_path):
    write(str(run), str(tmp_path / "page.html"), 0, 32)
    page = (tmp_path / "page.html").read_text()
    loads = Loads()
    loads.feed(page)
    assert loads.scripts == 2 and not loads.handlers, "its own and the viewer's"
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {*loads.fetched, *loads.links} == files - {"page.html"} and len(loads.links) == 20
    assert not re.search(r"https?://(?!www\.w3\.org/)|@import|\burl\(", page)
    assert EVIL not in page and "a lake &lt;/script&gt;" in page


def test_a_click_opens_the_scroll_as_it_was_made_and_scrolls_of_a_prompt_belong_together(run, tmp_path):
    write(str(run), str(tmp_path / "page.html"), 0, 32)
    page = (tmp_path / "page.html").read_text()
    links = re.findall(r'<a data-scroll="(\d+)" href="([^"]+)"', page)
    assert Counter(number for number, _ in links) == {str(number): 4 for number in range(1, 6)}
    made = {
        pair[side]["bytes"]
        for split in ("train", "validation")
        for pair in read_pairs(str(run), split)
        for side in ("chosen", "rejected")
    }
    assert made and made <= {(tmp_path / name).read_bytes() for _, name in links}


def test_the_page_grows_by_little_more_than_its_words(run, tmp_path):
    few, all_of_them = (len(render(seen(str(run), limit), 384).encode()) for limit in (1, 5))
    assert (all_of_them - few) / 4 / 4 < 500, "bytes for a scroll: ten thousand stay under 5 MB"


def test_every_chart_says_what_it_shows(run):
    drawings = seen(str(run), 1).drawings
    assert len(drawings) >= 3
    for drawing in drawings:
        label = re.search(r'role="img" aria-label="([^"]+)"', drawing)
        assert label and re.search(r"\d", label[1])


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_are_kept_and_reduced_to_the_asked_height_in_their_shape():
    files = {}
    shown = kept(picture(400, 100), 50, files.__setitem__)
    assert files[shown.original] == picture(400, 100)
    assert Image.open(io.BytesIO(files[shown.reduced])).size == (shown.width, shown.height) == (200, 50)
    assert reduce(picture(400, 100), 300)[1] == (400, 100), "never enlarged"
    assert reduce(picture(20000, 200), 300)[1] == (WIDEST, 82), "no wider than WebP can hold"


def test_a_limit_takes_groups_evenly_and_says_so(run):
    gallery = seen(str(run), 2)
    assert len(gallery.groups) == 2 and gallery.total == 5
    assert "2 of 5 groups shown" in render(gallery, 32)
    assert spread(list("abcdef"), 3) == ["a", "c", "e"] and spread(["a"], 0) == ["a"]


def test_an_unfinished_run_can_be_seen(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    units = sorted((tmp_path / "run/units").rglob("*.parquet"))
    units[0].unlink()
    units[1].write_bytes(units[1].read_bytes()[:100])
    shutil.rmtree(tmp_path / "run/export")
    (tmp_path / "run/stats.json").unlink()
    gallery = seen(str(tmp_path / "run"), 0)
    assert len(gallery.groups) == 3 and gallery.counts["images"] == 12


@pytest.fixture(scope="module")
def young(tmp_path_factory):
    """A run in blocks: three of its units are made, some of its prompts, and no plan of all."""
    folder = tmp_path_factory.mktemp("young")
    pairs = PairSettings(validation_prompts=5)
    config = fake_config(folder, folder / "out", [*IDEAS[:2], "", *IDEAS[2:]], block=2, pairs=pairs)
    begun(config, 3)
    return folder / "out"


def test_a_run_whose_prompts_are_still_made_can_be_seen(young):
    gallery = seen(str(young), 0)
    assert len(gallery.groups) == gallery.total == gallery.counts["units"] == gallery.counts["pairs"] == 3
    assert 3 <= gallery.counts["prompts_accepted"] < len(IDEAS) and "empty" in gallery.examples
    assert len(seen(str(young), 2).groups) == 2


def test_a_number_held_out_is_told_once_all_are_there(run, tmp_path):
    pairs = PairSettings(validation_prompts=1)
    config = fake_config(tmp_path, tmp_path / "run", IDEAS[:3], pairs=pairs)
    build(config)
    assert sorted(group.split for group in seen(config.out, 0).groups) == ["train", "train", "validation"]
    max((tmp_path / "run/units").rglob("*.parquet")).unlink()  # the manifest still says that it was finished
    gallery = seen(config.out, 0)
    assert [group.split for group in gallery.groups] == ["", ""] and "pairs_train" not in gallery.counts


def test_a_run_without_images_shows_what_became_of_its_prompts(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", [IDEAS[0], "", "a cosy kitchen"], until="prompts")
    build(config)
    gallery = seen(config.out, 0)
    assert not gallery.groups and gallery.counts["prompts_accepted"] == 1
    assert {"empty", "rules not outdoor"} <= gallery.examples.keys()
    page = render(gallery, 32)
    assert "a cosy kitchen" in page and "no scrolls to show" in page
    assert not any(word in page for word in ("<script", "<h2>Scores", "<h2>Scrolls")), "nothing about nothing"


def test_a_run_whose_first_block_passed_nothing_can_be_seen(tmp_path):
    config = fake_config(tmp_path, tmp_path / "out", ["a cosy kitchen", "", *IDEAS[:2]], block=2)
    blocks = texts(config, config.out, alone=True)
    begin(RunDir(config.out), config)
    next(iter(blocks))
    gallery = seen(config.out, 0)
    assert not gallery.groups and gallery.counts["prompts"] == 2


def test_who_is_held_out_is_not_told_before_it_is_decided(young):
    gallery = seen(str(young), 0)
    assert {group.split for group in gallery.groups} == {""}
    assert not [name for name in gallery.counts if name.startswith("pairs_")]
    assert "pairs train" not in render(gallery, 32)


def test_the_page_tells_what_the_run_told(run):
    assert seen(str(run), 2).counts == json.loads((run / "stats.json").read_text())["counts"]


def test_a_run_that_may_only_be_read_can_be_seen(run, tmp_path, monkeypatch):
    real = tempfile.TemporaryFile

    refused = []

    def refusing(*args, dir=None, **kwargs):
        if dir is not None and str(run) in str(dir):
            refused.append(dir)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(*args, dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, "TemporaryFile", refusing)
    assert main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert refused and IDEAS[0] in (tmp_path / "page.html").read_text()


def test_a_full_disk_is_no_damage_of_the_run(run, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match="No space left") as told:
        write(str(run), str(tmp_path / "page.html"))
    assert "Free some space" in told.value.hint


def test_a_run_in_many_parts_gives_the_page_of_one(tmp_path, monkeypatch):
    pairs = PairSettings(method="all", balance="equal_wins", normalise="zscore", validation_prompts=2)
    config = fake_config(tmp_path, tmp_path / "run", pairs=pairs)
    build(config)
    ids = [each["candidate_id"] for each in pq.read_table(tmp_path / "run/scores.parquet").to_pylist()]
    claim_column(Storage(config.out), Column(name="again", scorer="again"))
    write_scores(Storage(config.out), "again", [Score(candidate_id=each, score=len(ids)) for each in ids])
    whole = seen(config.out, 0)
    for module, name, size in ((heaps, "ROWS_PER_PART", 4), (heaps, "_WAITING", 1), (scores, "AT_ONCE", 1)):
        monkeypatch.setattr(module, name, size)
    parts = seen(config.out, 0)
    assert parts == whole and {group.split for group in whole.groups} == {"train", "validation"}
    assert all("again" in strip.scores for group in parts.groups for strip in group.strips)
    few = seen(config.out, 3)
    assert few.groups == whole.groups[::2] and few.counts == whole.counts


def test_a_scroll_that_rotted_is_told_and_the_others_are_shown(run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "run")
    unit = min((tmp_path / "run/units").rglob("*.parquet"))
    data = bytearray(unit.read_bytes())
    place = data.index(b"RIFF")  # an image; what scores are made of stays whole
    data[place : place + 8] = b"\0" * 8
    unit.write_bytes(data)
    gallery = seen(str(tmp_path / "run"), 0)
    assert len(gallery.groups) == 4 and gallery.total == 5
    assert f"{unit.name} is not shown" in caplog.text


def test_an_export_alone_shows_its_pairs(run):
    gallery = seen(str(run / "export"), 0)
    assert len(gallery.groups) == gallery.counts["pairs"] == 5 and not gallery.funnel
    assert all([s.role for s in group.strips] == ["chosen", "rejected"] for group in gallery.groups)
    assert "5 of 5 pairs shown" in render(gallery, 32)


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
