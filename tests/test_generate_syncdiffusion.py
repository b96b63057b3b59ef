"""SyncDiffusion: parity with the authors' program, its gradient, defaults, loop closure and memory."""

import pytest

from generate.methods import syncdiffusion
from generate.methods.syncdiffusion import SyncDiffusion
from tests import recordings
from tests.small_scrolls import distance, family
from tests.test_generate_parity import embeddings, request

TOLERANCE = 1e-3
CASES = recordings.cases("syncdiffusion")


def squeeze(golden):
    return {
        "net": "squeeze",
        "net_weights": str(golden / "models" / "lpips-squeeze-rand" / "model.safetensors"),
    }


def config(golden, settings, **changes):
    return syncdiffusion.Config(**{
        **squeeze(golden),
        "window": settings["window"] * 8, "stride": settings["stride"] * 8, "weight": settings["sync_weight"],
        "decay": settings["sync_decay_rate"], "every": settings["sync_freq"], "until": settings["sync_thres"],
        "edge": "uncovered", "wrap": settings["loop_closure"], **changes,
    })  # fmt: skip


def test_recorded_runs_are_found():
    assert len(CASES) == 2


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_final_latents_equal_the_recorded_run(golden, case):
    settings, tensors = recordings.load(case)
    method, seen = SyncDiffusion(family(golden, settings["model"]), config(golden, settings)), []
    final = method.sample(
        request(settings),
        embeddings=embeddings(tensors),
        latents=tensors["init_latents"],
        callback=lambda step: seen.append(step.latents),
    ).latents
    print(distance(final, tensors["final_latents"]))
    assert distance(final, tensors["final_latents"]) <= TOLERANCE
    for row, index in enumerate(settings["latents_per_step_indices"]):
        assert distance(seen[index], tensors["latents_per_step"][row]) <= TOLERANCE
