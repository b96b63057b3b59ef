"""The shipped folders are ordinary ones: the field's loaders open them with no argument but the folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from miniature.export import make_portable
from miniature.fit_controlnet import canny
from miniature.world import paint, sample_scene

WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"
PROMPT = "a castle in a green meadow at noon under a clear sky"
pytestmark = pytest.mark.filterwarnings("ignore")


def _assert_single_precision_throughout(pipe):
    kinds = {name: part.dtype for name, part in pipe.components.items() if hasattr(part, "dtype")}
    assert kinds and set(kinds.values()) == {torch.float32}, kinds


def _assert_picture(image):
    picture = np.asarray(image)
    assert picture.shape == (128, 128, 3) and picture.std() > 10


def test_the_pipeline_paints_when_it_is_opened_with_no_argument():
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(WEIGHTS / "sdxl")
    _assert_single_precision_throughout(pipe)
    _assert_picture(pipe(PROMPT, num_inference_steps=4).images[0])


def test_the_controlnet_pipeline_paints_when_it_is_opened_with_no_argument():
    from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
    from PIL import Image

    controlnet = ControlNetModel.from_pretrained(WEIGHTS / "controlnet")
    pipe = StableDiffusionXLControlNetPipeline.from_pretrained(WEIGHTS / "sdxl", controlnet=controlnet)
    _assert_single_precision_throughout(pipe)
    edges = Image.fromarray(canny(paint(sample_scene(4, 128, 128, subject="castle")))).convert("RGB")
    _assert_picture(pipe(PROMPT, image=edges, num_inference_steps=4).images[0])


def test_open_clip_sees_and_reads_when_it_is_opened_with_no_argument():
    import open_clip
    from PIL import Image

    folder = f"local-dir:{WEIGHTS / 'clip'}"
    model, preprocess = open_clip.create_model_from_pretrained(folder)
    shown = preprocess(Image.fromarray(paint(sample_scene(4, 128, 128, subject="castle"))))[None]
    with torch.no_grad():
        seen = model.encode_image(shown, normalize=True)
        said = model.encode_text(open_clip.get_tokenizer(folder)([PROMPT]), normalize=True)
    assert seen.dtype == said.dtype == torch.float32 and torch.isfinite(seen @ said.T).all()


def test_an_exported_configuration_says_single_precision_and_nothing_of_its_maker(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"dtype": "float16", "_name_or_path": "/home/maker", "hidden_size": 64}))
    make_portable(path)
    assert json.loads(path.read_text()) == {"dtype": "float32", "hidden_size": 64}


def test_no_shipped_configuration_asks_for_half_precision():
    configs = list(WEIGHTS.rglob("config.json"))
    assert len(configs) >= 5
    for path in configs:
        said = json.loads(path.read_text(encoding="utf-8"))
        assert "float16" not in (said.get("dtype"), said.get("torch_dtype")), path
