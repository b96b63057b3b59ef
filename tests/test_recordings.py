"""The recorded runs in `tests/golden` are whole, and no file there says more than it should."""

import json

import pytest
import torch

from tests import recordings

METHODS = sorted(
    path.name
    for path in recordings.GOLDEN.iterdir()
    if path.is_dir() and path.name not in ("models", "__pycache__")
)
CASES = recordings.cases(*METHODS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_recording_gives_back_what_was_measured_on_it(case):
    settings, tensors = recordings.load(case)
    final = tensors["final_latents"].double()
    measured = settings["final_stats"]
    assert float(final.abs().max()) == pytest.approx(measured["absmax"], rel=1e-6)
    assert float(final.mean()) == pytest.approx(measured["mean"], abs=1e-5 * measured["absmax"])
    assert float(final.std()) == pytest.approx(measured["std"], rel=1e-5)
    assert len(tensors.get("latents_per_step", ())) == len(settings["latents_per_step_indices"])


@pytest.mark.parametrize("case", [case for case in CASES if case.parts[0] == "gvcf"], ids=str)
def test_the_noise_that_was_cut_out_is_drawn_again(case):
    settings, _ = recordings.load(case)
    if "variance_noise" not in settings:
        return
    noise = recordings.variance_noise(settings)
    ends = settings["variance_noise"]
    assert torch.allclose(noise.flatten()[:4], torch.tensor(ends["first"]), atol=1e-5)
    assert torch.allclose(noise.flatten()[-4:], torch.tensor(ends["last"]), atol=1e-5)


def test_the_folder_stays_small_and_holds_tensors_and_text_only():
    found = [path for path in recordings.GOLDEN.rglob("*") if path.is_file()]
    files = [path for path in found if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 12_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".py"}
    for text in (path.read_text() for path in files if path.suffix == ".json"):
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
