"""The count by eye that ships, and how a detector is compared with it."""

from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np
import pytest

from drspo.errors import UserError
from miniature.counted import CHOSEN_ON, FOLDER, STUDY, agreement, compare, counted, matched
from miniature.detector import Found
from miniature.world import SUBJECTS, Thing

SUN, CASTLE = Thing("sun", (10, 10, 26, 26)), Thing("castle", (50, 40, 100, 90))


def found(kind: str, x: float, y: float) -> Found:
    return Found(kind, x, y, 0.9)


def test_an_object_answers_for_one_thing_of_its_own_name_around_its_centre():
    assert matched([SUN, CASTLE], [found("sun", 18, 18), found("castle", 75, 60)]) == 2
    assert matched([SUN], [found("moon", 18, 18)]) == 0
    assert matched([SUN], [found("sun", 60, 18)]) == 0
    assert matched([CASTLE, Thing("castle", (60, 40, 110, 90))], [found("castle", 80, 60)]) == 1


def test_precision_recall_and_bias_follow_from_the_counts():
    pairs = [([SUN, CASTLE], [found("sun", 18, 18), found("castle", 75, 60), found("castle", 200, 60)])]
    castles = agreement(pairs, SUBJECTS)
    assert (castles.precision, castles.recall, castles.bias) == (0.5, 1.0, 1.0)
    assert agreement(pairs, ("sun",)).bias == 0
    assert np.isnan(agreement(pairs, ("moon",)).recall)


def _folder(path, things):
    (path / "scrolls").mkdir()
    cv2.imwrite(str(path / "scrolls" / "000.webp"), np.full((128, 512, 3), 90, np.uint8))
    (path / "counts.json").write_text(json.dumps({"scrolls": [{"number": 0, "things": things}]}))
    return path


def test_an_eye_and_a_detector_that_agree_have_no_bias(tmp_path):
    folder = _folder(tmp_path, [["sun", 10, 10, 26, 26], ["castle", 50, 40, 100, 90]])
    answers = compare(folder, lambda picture: [found("sun", 18, 18), found("castle", 75, 60)])
    for group in ("suns", "subjects", "castle"):
        assert (answers[group].precision, answers[group].recall, answers[group].bias) == (1, 1, 0)


@pytest.mark.parametrize("wrong", [["star", 1, 1, 2, 2], ["sun", 9, 1, 2, 2], ["sun", 1, 1, 2]])
def test_a_count_that_makes_no_sense_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="000.webp"):
        list(counted(_folder(tmp_path, [wrong])))


def test_a_missing_scroll_is_named(tmp_path):
    folder = _folder(tmp_path, [])
    (folder / "scrolls" / "000.webp").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        list(counted(folder))


@pytest.mark.parametrize(("folder", "count", "methods"), [(FOLDER, 100, 4), (STUDY, 70, 7)])
def test_equally_many_scrolls_of_every_method_were_counted(folder, count, methods):
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    assert [one["number"] for one in asked["scrolls"]] == [one["number"] for one in counts["scrolls"]]
    assert len(asked["scrolls"]) == count and (asked.get("weights") or asked["revision"])
    shares = Counter(one["method"] for one in asked["scrolls"])
    assert len(shares) == methods and set(shares.values()) == {count // methods}
    for picture, things in counted(folder):
        assert picture.shape == (128, 512, 3)
        for thing in things:
            left, top, right, bottom = thing.box
            assert left >= -8 and top >= -8 and right <= 520 and bottom <= 136


@pytest.mark.parametrize("since", [0, CHOSEN_ON])
def test_the_shipped_detector_counts_as_the_eye_did(since):
    answers = compare(since=since)
    for group in ("suns", "moons", "subjects"):
        here = answers[group]
        assert here.seen >= 20, group
        assert abs(here.bias) <= 0.1, (group, here)
        assert here.precision >= 0.8 and here.recall >= 0.8, (group, here)


def test_on_scrolls_of_the_shipped_networks_the_detector_counts_lights_well_and_castles_too_often():
    answers = compare(STUDY)
    for group in ("suns", "moons", "subjects"):
        here = answers[group]
        assert here.seen >= 40 and here.precision >= 0.8 and here.recall >= 0.8, (group, here)
    assert abs(answers["suns"].bias) <= 0.1 and abs(answers["moons"].bias) <= 0.1
    assert 0.05 < answers["subjects"].bias <= 0.15 and answers["castle"].bias > 0.2  # README says so
