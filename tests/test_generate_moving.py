"""A method that only says where its windows lie at each step gives SpotDiffusion's recorded latents."""

from dataclasses import replace
from itertools import accumulate

import pytest

from generate.canvas.windows import Window
from generate.methods.multidiffusion import Config, MultiDiffusion
from tests import recordings
from tests.small_scrolls import distance, family
from tests.test_generate_parity import TOLERANCE, embeddings, request

CASES = [case for case in recordings.cases("spotdiffusion") if "uncovered" not in case.name]


class Shifted(MultiDiffusion):
    """Windows side by side, all of them further right at each step, closing around the canvas."""

    shifts: tuple[int, ...] = ()

    def canvas_at(self, run, index):
        shift = sum(self.shifts[:index]) % run.canvas.width
        moved = (Window(w.y0, w.y1, w.x0 + shift, w.x1 + shift) for w in run.canvas.windows)
        return replace(run.canvas, windows=tuple(moved))


def test_recorded_runs_are_found():
    assert CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_moving_windows_on_a_still_canvas_equal_a_canvas_that_is_rolled(golden, case):
    settings, tensors = recordings.load(case)
    side = settings["window"] * 8
    method = Shifted(family(golden, settings["model"]), Config(window=side, stride=side))
    method.shifts = tuple(settings["shifts"])
    seen = []
    final = method.sample(
        request(settings),
        embeddings=embeddings(tensors),
        latents=tensors["init_latents"],
        callback=lambda step: seen.append(step.latents),
    ).latents
    rolls = list(accumulate(settings["shifts"]))
    assert distance(final.roll(-rolls[-1], -1), tensors["final_latents"]) <= TOLERANCE
    for row, index in enumerate(settings["latents_per_step_indices"]):
        assert distance(seen[index].roll(-rolls[index], -1), tensors["latents_per_step"][row]) <= TOLERANCE
