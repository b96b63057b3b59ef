"""The scorers of pictures with prompts, on small random networks of the exact architectures."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from drspo.errors import UserError
from eval.backbones.clip_open import describe
from eval.backbones.clip_transformers import features
from eval.backbones.embeddings import load_backbone
from eval.backbones.views import letterbox, official
from eval.metrics.clip_score import ClipScore
from eval.metrics.hps import HpsV2, HpsV21
from eval.metrics.pickscore import PickScore
from miniature.layouts import CLIP_FOLDER, copy_tokenizer

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
PROMPTS = ["a castle at dusk", "a lone pine in the snow", "a windmill"]


def picture(seed, width=160, height=40):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


PICTURES = [picture(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def pick_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pick")
    torch.manual_seed(0)
    config = CLIPConfig(
        projection_dim=24,
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "image_size": 40, "patch_size": 8, "hidden_act": "gelu"},
        text_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 896,
                     "num_attention_heads": 2, "hidden_act": "gelu", "eos_token_id": 895, "bos_token_id": 0},
    )  # fmt: skip
    model = CLIPModel(config).eval()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(model.state_dict(), folder / "model.safetensors")
    copy_tokenizer(folder)
    return folder, model


def test_pickscore_is_the_scaled_cosine_of_its_clip(pick_folder):
    folder, model = pick_folder
    scorer = PickScore(str(folder), device="cpu")
    found = scorer.score(PICTURES, PROMPTS)
    pixels = np.stack([np.asarray(official(image, 40), np.float32) for image in PICTURES]) / 255
    pixels = ((torch.from_numpy(pixels) - MEAN) / STD).permute(0, 3, 1, 2)
    tokens = scorer.backbone.tokenizer(PROMPTS)
    with torch.no_grad():
        out = model(pixel_values=pixels, input_ids=tokens)
    assert out.logits_per_image.shape == (3, 3)
    assert found == pytest.approx(out.logits_per_image.diagonal().tolist(), abs=1e-4)
    assert scorer.factor == pytest.approx(float(model.logit_scale.exp().detach()))


def test_pickscore_reads_the_features_of_transformers_4_and_5():
    vectors = torch.ones(2, 3)
    assert features(vectors) is vectors
    assert features(type("Output", (), {"pooler_output": vectors})) is vectors


def test_a_checkpoint_that_lacks_a_tensor_or_has_one_too_many_is_refused(pick_folder, tmp_path):
    folder, model = pick_folder
    copy_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    for changed in ({"visual_projection.weight": None}, {"extra": torch.ones(1)}):
        state = {**model.state_dict(), **changed}
        save_file({k: v.clone() for k, v in state.items() if v is not None}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="not the CLIP that its configuration describes"):
            PickScore(str(tmp_path), device="cpu").score(PICTURES, PROMPTS)


def test_hps_shows_the_whole_scroll_letterboxed_as_its_authors_do():
    scorer = HpsV2(str(CLIP_FOLDER), device="cpu")
    assert scorer.view == "letterbox"
    backbone = load_backbone("miniature", "cpu")
    shown = backbone.embed_squares([letterbox(image, 64) for image in PICTURES])
    expected = (shown * backbone.embed_texts(PROMPTS)).sum(axis=1)
    assert scorer.score(PICTURES, PROMPTS) == pytest.approx(expected.tolist(), abs=1e-5)
    assert HpsV2(str(CLIP_FOLDER), view="squash", device="cpu").view == "squash"


@pytest.mark.parametrize("scorer", [HpsV2, HpsV21])
def test_a_bare_file_of_hps_is_a_vit_h_14_with_plain_gelu(tmp_path, scorer):
    (tmp_path / scorer.file).write_bytes(b"not read here")
    for given in (tmp_path, tmp_path / scorer.file):
        judge = scorer(str(given), device="cpu")
        spec = judge.backbone.spec
        assert (spec.architecture, spec.shape, spec.dim, spec.size) == ("ViT-H-14", (32, 1280, 14), 1024, 224)
        assert judge.backbone._encoders is None


def test_the_two_versions_of_hps_are_two_columns_and_never_one_anothers_files(tmp_path):
    assert HpsV2.name != HpsV21.name and HpsV2.unit != HpsV21.unit
    (tmp_path / HpsV2.file).write_bytes(b"2.0")
    with pytest.raises(UserError, match="HPS_v2.1_compressed.pt"):
        HpsV21(str(tmp_path), device="cpu")


def test_a_batch_scores_as_singles_do(pick_folder):
    for make in (lambda n: PickScore(str(pick_folder[0]), view="windows", device="cpu", batch_size=n),
                 lambda n: ClipScore("miniature", device="cpu", batch_size=n)):  # fmt: skip
        together, alone = make(32), make(1)
        singles = [alone.score([image], [text])[0] for image, text in zip(PICTURES, PROMPTS, strict=True)]
        assert together.score(PICTURES, PROMPTS) == pytest.approx(singles, abs=1e-4)


def test_what_is_cut_of_a_long_prompt_is_said_once(caplog):
    scorer = ClipScore("miniature", device="cpu")
    long = " ".join(["castle"] * 150)
    with caplog.at_level(logging.WARNING):
        scorer.score(PICTURES[:2], [long, "a castle"])
        scorer.score(PICTURES[:1], [long])
    said = [record.getMessage() for record in caplog.records if "tokens of a prompt" in record.getMessage()]
    assert said == ["clip reads 77 tokens of a prompt: 1 of these 2 prompts are longer, up to 50 % is cut."]


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_prompt_is_refused_by_a_scorer_that_reads_it(empty):
    with pytest.raises(UserError, match="clip compares a picture with its prompt, and picture 1 has none"):
        ClipScore("miniature", device="cpu").score(PICTURES[:2], ["a castle", empty])


def test_openais_weights_get_quick_gelu_from_a_file_too(tmp_path):
    (tmp_path / "openai-vit-l-14.safetensors").write_bytes(b"")
    assert (
        describe(f"ViT-L-14:{tmp_path / 'openai-vit-l-14.safetensors'}").architecture == "ViT-L-14-quickgelu"
    )
