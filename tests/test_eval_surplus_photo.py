"""Surplus objects of photographs: maps of patch tokens, controls, calibration, and no number without it."""

import importlib.util
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from drspo.errors import UserError
from eval import selftest
from eval.backbones.clip_open import describe
from eval.backbones.patches import PatchMaps
from eval.base import Missing
from eval.controls import photographs
from eval.controls.photographs import CHECKING, CHOOSING, CONTROLS, COPIES, photo
from eval.metrics import calibration
from eval.metrics.calibration import Calibration, calibrate
from eval.metrics.matching import Gate
from eval.metrics.surplus import heat_map
from eval.metrics.surplus_photo import SurplusPhoto
from eval.metrics.token_field import residual

SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"image_size": 518, "patch_size": 14}
PASSING = Calibration(1.5, Gate(0.4, 0.65), {name: (COPIES.get(name, 0.0), 1.0) for name in CONTROLS})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random networks in DINOv2's published layout: config.json and model.safetensors."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("dino")
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(root / "plain")
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)).save_pretrained(
        root / "registers"
    )
    return root


@pytest.mark.parametrize(("name", "cls"), [("plain", Dinov2Model), ("registers", Dinov2WithRegistersModel)])
def test_a_squares_map_is_dinos_own_tokens_without_class_and_registers(folders, name, cls):
    image = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    found = PatchMaps(str(folders / name), "m", "cpu")(image)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    pixels = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        tokens = cls.from_pretrained(folders / name).eval()(pixel_values=pixels).last_hidden_state[0, -1024:]
    np.testing.assert_allclose(found.reshape(1024, -1), tokens.numpy(), atol=1e-4)


def test_a_clips_map_is_made_of_its_squares_and_their_corners_are_its_own_tokens():
    image = np.random.default_rng(0).integers(0, 256, (256, 512, 3), np.uint8)
    maps = PatchMaps("miniature", "m", "cpu")
    found = maps(image)
    visual = describe("miniature").load(torch.device("cpu"))[0].__self__.visual
    pixels = (torch.from_numpy(image[:64, :64]) / 255 - 0.5) / 0.5
    with torch.no_grad():
        pixels = pixels.permute(2, 0, 1)[None]
        own = visual.forward_intermediates(pixels, indices=[1], intermediates_only=True)
    corner = own["image_intermediates"][0][0].permute(1, 2, 0).numpy()
    assert found.shape == (32, 64, 128)
    np.testing.assert_allclose(found[:4, :4], corner[:4, :4], atol=1e-4)  # no other square shows these


def test_a_network_that_is_none_or_lacks_weights_is_refused_by_name(folders, tmp_path):
    config = json.loads((folders / "plain" / "config.json").read_text())
    for changed, said in (({"model_type": "vit"}, "not DINOv2"), ({"patch_size": "x"}, "no configuration")):
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        (tmp_path / "model.safetensors").write_bytes((folders / "plain" / "model.safetensors").read_bytes())
        with pytest.raises(UserError, match=said):
            PatchMaps(str(tmp_path), "m", "cpu")
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(UserError, match="not the DINOv2 of its configuration"):
        PatchMaps(str(tmp_path), "m", "cpu")(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="gives no map of patches|unknown backbone"):
        PatchMaps("RN50", "m", "cpu")


def test_the_halves_of_the_photographs_share_no_thing_and_no_background():
    for part in ("things", "backgrounds"):
        assert not set(getattr(CHOOSING, part)) & set(getattr(CHECKING, part))
    for half in (CHOOSING, CHECKING):
        for seed in range(6):
            scene = photo(seed, half)
            assert len(scene.things) >= 4 and scene.clean.shape == (256, 1024, 3)
            again = CONTROLS["2 copies"](photo(seed, half), np.random.default_rng(0))
            changed = np.abs(again.astype(int) - scene.clean).max(axis=(0, 2)) > 0
            assert 0.05 < changed.mean() < 0.35  # two things more, the rest untouched


def test_without_the_libraries_the_photographs_are_missed_by_name(monkeypatch):
    photographs._read.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[photographs\]'"):
        photo(0, CHOOSING)
    photographs._read.cache_clear()


def test_background_that_varies_is_no_thing_and_a_thing_that_differs_from_it_is():
    rng = np.random.default_rng(0)
    tokens = rng.normal(0, 1, (32, 128, 12)).astype(np.float32) * np.linspace(5, 0.2, 12)
    tokens[10:20, 40:50, 11] += 2  # little of it, in a direction in which the background is still
    far = np.linalg.norm(residual(tokens), axis=2)
    assert np.median(far[11:19, 41:49]) > 3 * np.quantile(far, 0.5)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(calibration, "CHOSEN_ON", 2)
    monkeypatch.setattr(calibration, "CHECKED_ON", 2)
    monkeypatch.setattr(calibration, "FLOORS", (50.0,))  # nothing stands out so far
    monkeypatch.setattr(calibration, "GATES", (Gate(0.4, 0.65), Gate(0.6, 0.85)))
    monkeypatch.setattr(calibration, "CONTROLS", {name: CONTROLS[name] for name in (*COPIES, "blur")})


def test_weights_whose_controls_fail_give_no_number_and_are_refused_from_then_on(quick, folders, tmp_path):
    scorer = SurplusPhoto(str(folders / "plain"), "cpu", cache=str(tmp_path))
    monkey = Image.fromarray(photo(0, CHECKING).clean)
    (value,) = scorer.score([monkey], [""])
    assert isinstance(value, Missing) and "controls fail" in value.reason and "%" in value.reason
    assert scorer._found.controls.keys() == {*COPIES, "blur"}
    with pytest.raises(UserError, match="its controls fail"):
        SurplusPhoto(str(folders / "plain"), "cpu", cache=str(tmp_path))
    with pytest.raises(UserError, match="its controls fail"):
        heat_map(monkey, scorer)


def test_a_calibration_that_passed_counts_copies_of_a_photographs_thing(tmp_path):
    scorer = SurplusPhoto("miniature", "cpu", cache=str(tmp_path))
    (tmp_path / "calibrations").mkdir()
    path = tmp_path / calibration._name(scorer.maps.hash)
    path.write_text(json.dumps(asdict(PASSING)))
    scorer = SurplusPhoto("miniature", "cpu", cache=str(tmp_path))
    scene = photo(3, CHECKING)  # a flower on grass
    images = [Image.fromarray(scene.put([scene.things[0]] * n)) for n in (1, 2, 3)]
    assert scorer.score(images, [""] * 3) == pytest.approx([0, 1, 2], abs=0.25)
    hot = heat_map(images[2], scorer)
    x = [round(place) for place in scene.places[:3]]
    assert hot.shape == (256, 1024) and min(hot[round(scene.row), x]) > 0.2 and np.median(hot) < 0.02
    path.write_text('{"floor": 1}')  # damaged: it is made anew when it is needed
    assert SurplusPhoto("miniature", "cpu", cache=str(tmp_path))._found is None


def test_the_verdict_is_the_selftests_own():
    assert PASSING.failures == []
    unordered = Calibration(1.5, PASSING.gate, {**PASSING.controls, "1 copy": (0.9, 0.9)})
    leaking = Calibration(1.5, PASSING.gate, {**PASSING.controls, "blur": (0.2, 0.5)})
    blind = Calibration(1.5, PASSING.gate, dict.fromkeys(CONTROLS, (0.0, 0.5)))
    assert len(unordered.failures) == len(leaking.failures) == 1 and len(blind.failures) == len(CONTROLS)


def test_the_choice_is_the_setting_that_counts_best_on_its_own_half(quick, monkeypatch):
    def rises(tokens, half, count, floors, gates):
        right = half is CHOOSING and count == 2
        truth = {name: float(COPIES.get(name, 0)) for name in CONTROLS}
        return {
            (floor, gate): {name: [n * (gate.low if right else 1.0)] * count for name, n in truth.items()}
            for floor in floors
            for gate in gates
        }

    monkeypatch.setattr(calibration, "_rises", rises)
    found = calibrate(lambda image: image, 2, 3)
    assert found.gate.low == 0.6 and found.failures == []
    assert all(math.isfinite(value) for pair in found.controls.values() for value in pair)


def test_the_command_says_which_controls_fail(quick, folders, tmp_path, capsys):
    assert selftest.main(["--photographs", str(folders / "plain"), "--cache", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "fails" in said and "| 1 copy | for |" in said and len(list(tmp_path.rglob("*.json"))) == 1
