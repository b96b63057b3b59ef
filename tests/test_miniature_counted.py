"""The count by eye that ships, and how a detector is compared with it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from drspo.errors import UserError
from miniature.counted import CHOSEN_ON, FOLDER, agreement, compare, counted, matched
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


def test_a_hundred_scrolls_of_all_methods_were_counted():
    asked = json.loads((FOLDER / "asked.json").read_text(encoding="utf-8"))
    counts = json.loads((FOLDER / "counts.json").read_text(encoding="utf-8"))
    assert [one["number"] for one in asked["scrolls"]] == [one["number"] for one in counts["scrolls"]]
    assert len(asked["scrolls"]) == 100 and asked["weights"]
    for picture, things in counted():
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
