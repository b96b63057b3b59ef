"""The self-test draws what it says, tells a measure that works from one that doesn't, and ours pass it."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from eval import METRICS
from eval import selftest as st
from eval.config import EvalConfig
from eval.controls.drawn import drawn
from eval.selftest import CHECKS, CONTROLS, DEFAULT, failures, judge, main, markdown, run, summary

SEED = 92_000_000


def test_every_control_can_be_drawn_keeps_the_size_and_changes_the_picture():
    made = dict.fromkeys(CONTROLS, 0)
    for scene in (drawn(SEED + number) for number in range(8)):
        for name, change in CONTROLS.items():
            image = change(scene, np.random.default_rng(zlib.crc32(name.encode())))
            if image is not None:
                assert image.shape == scene.clean.shape and image.dtype == np.uint8, name
                made[name] += bool((image != scene.clean).any())
    assert min(made.values()) >= 3, made


def test_a_control_is_the_same_picture_every_time():
    for name in ("2 jittered", "collage", "noise 10"):
        first, second = (CONTROLS[name](drawn(SEED), np.random.default_rng(5)) for _ in range(2))
        assert np.array_equal(first, second)


def test_checks_name_known_controls_and_measures():
    for name, check in CHECKS.items():
        assert name in METRICS or name == "blueprint_loss"
        assert set(check.rises_for) | set(check.limits) <= set(CONTROLS)
        assert not set(check.rises_for) & set(check.limits)


def scenes(copy, blur, count=40):
    """Invented readings of one measure that is for copies: its rise for a copy and for everything else."""
    rng = np.random.default_rng(0)
    shifts = {
        name: copy if name in CHECKS["surplus"].rises_for else blur if name == "blur 1 px" else 0.0
        for name in CONTROLS
    }
    return [
        {("surplus", name): value + rng.normal(0, 0.01) for name, value in shifts.items()}
        for _ in range(count)
    ]


def test_a_measure_that_follows_copies_alone_passes():
    lines = judge(scenes(1.0, 0.0), ("surplus",))
    assert failures(lines) == [] and "surplus: passes" in markdown(lines)
    assert summary(lines).endswith("| yes |")


def test_a_measure_that_falls_for_copies_fails():
    wrong = failures(judge(scenes(-0.5, 0.0), ("surplus",)))
    assert any("is for 1 copy and rises in 0%" in sentence for sentence in wrong)


def test_a_measure_that_blur_moves_by_a_tenth_of_a_copy_fails():
    wrong = failures(judge(scenes(1.0, 0.2), ("surplus",)))
    assert len(wrong) == 1 and "blur 1 px" in wrong[0]


def test_the_withdrawn_measure_fails_and_stands_in_no_default():
    assert failures(run(5, ("repetition",), first=SEED))
    withdrawn = {name for name, check in CHECKS.items() if check.withdrawn}
    assert withdrawn == {"repetition"} and not withdrawn & set(DEFAULT)
    assert not withdrawn & set(EvalConfig().judges.scorers)
    root = Path(__file__).parents[1]
    for file in (*root.glob("*/presets/*.yaml"), *root.glob("configs/*.yaml")):
        said = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        named = str([said.get(part) for part in ("judges", "scoring", "pairs")])
        assert not [name for name in withdrawn if name in named], file


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_our_measures_pass_on_scenes_that_no_threshold_was_chosen_on():
    assert failures(run(12, tuple(DEFAULT), first=SEED)) == []


def test_the_command_says_which_measure_failed_and_ends_with_1(monkeypatch, capsys):
    monkeypatch.setattr(st, "run", lambda count, names, workers: judge(scenes(1.0, 0.2), ("surplus",)))
    assert main(["--measures", "surplus", "--scenes", "20"]) == 1
    assert "surplus moves by" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["--scenes", "3"])
    assert stopped.value.code == 2
