"""Scorers on a small random CLIP: batching, views, refusals, and what repetition means."""

import gc
import hashlib
import json
import logging
import weakref

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from drspo.errors import UserError
from eval.backbones.clip_open import describe, needs_quick_gelu
from eval.backbones.embeddings import Backbone, load_backbone
from eval.backbones.views import window_boxes
from eval.base import build_scorer
from eval.metrics.aesthetic import Aesthetic
from eval.metrics.repetition import SelfSimilarity, Windows, excess, far_pairs

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=MODEL["vision_cfg"], text_cfg=MODEL["text_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def head_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_file(
        {"weight": torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), "bias": torch.ones(1)},
        path,
    )
    return path


def scene(seed, width=128, height=32):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def copies(seed, count=4):
    square = scene(seed, 32, 32)
    strip = Image.new("RGB", (32 * count, 32))
    for n in range(count):
        strip.paste(square, (32 * n, 0))
    return strip


@pytest.mark.parametrize("view", ["official", "letterbox", "squash", "windows"])
def test_a_batch_scores_as_singles_do(clip_folder, head_file, view):
    scorer = build_scorer("aesthetic", {"backbone": str(clip_folder), "head": str(head_file), "view": view})
    images = [scene(n) for n in range(5)]
    together = scorer.score(images, [""] * 5)
    fresh = Backbone(str(clip_folder), batch_size=1)
    alone = [float(scorer.head(fresh.embed_views([image], view)[0]).mean()) for image in images]
    assert np.allclose(together, alone, atol=1e-4)
    assert len(set(np.round(together, 6))) == 5


def test_scaling_the_embedding_changes_nothing_because_it_is_normalised(clip_folder):
    backbone = Backbone(str(clip_folder))
    assert np.allclose(np.linalg.norm(backbone.embed_views([scene(1)], "windows")[0], axis=1), 1.0, atol=1e-6)


def test_the_crop_of_the_official_view_is_said_once(clip_folder, head_file, caplog):
    scorer = Aesthetic(str(clip_folder), str(head_file), view="official")
    with caplog.at_level(logging.WARNING):
        scorer.score([scene(1)], [""])
        scorer.score([scene(2)], [""])
    assert [record.message for record in caplog.records if "middle 25 %" in record.message].__len__() == 1


def test_a_head_for_other_embeddings_is_refused(clip_folder, tmp_path):
    save_file({"weight": torch.zeros(1, 24), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        Aesthetic(str(clip_folder), str(tmp_path / "head.safetensors"))


def test_openai_weights_get_the_activation_they_were_trained_with():
    assert needs_quick_gelu("ViT-L-14", "openai") == "ViT-L-14-quickgelu"
    assert needs_quick_gelu("ViT-L-14", "/models/openai-vit-l-14.pt") == "ViT-L-14-quickgelu"
    assert needs_quick_gelu("ViT-L-14", "laion2b_s32b_b82k") == "ViT-L-14"


def test_an_image_passes_the_backbone_once_however_many_scorers_ask(clip_folder, monkeypatch):
    backbone = Backbone(str(clip_folder))
    calls = []
    monkeypatch.setattr(
        backbone, "embed_squares", lambda squares: calls.append(len(squares)) or np.ones((len(squares), 4))
    )
    backbone.embed_views([scene(1), scene(2)], "windows")
    backbone.embed_views([scene(1)], "windows")
    assert calls == [14, 0]


def counted(backbone):
    """The backbone with a list of how many pictures and texts its networks were given."""
    seen = []
    encode_image, encode_text = backbone.spec.load(backbone.device)
    backbone._encoders = (
        lambda pixels: seen.append(("images", len(pixels))) or encode_image(pixels),
        lambda tokens: seen.append(("texts", len(tokens))) or encode_text(tokens),
    )
    return seen


def test_embeddings_on_disk_are_shared_by_scorers_and_a_second_run_encodes_nothing(clip_folder, tmp_path):
    cache, images, texts = str(tmp_path / "cache"), [scene(1), scene(2)], ["a castle", "a pine"]
    first = Backbone(str(clip_folder), cache=cache)
    seen = counted(first)
    found = first.embed_views(images, "windows"), first.embed_texts(texts)
    assert seen == [("images", 14), ("texts", 2)]
    again = Backbone(str(clip_folder), cache=cache)
    assert np.array_equal(np.stack(found[0]), np.stack(again.embed_views(images, "windows")))
    assert np.array_equal(found[1], again.embed_texts(texts))
    assert again._encoders is None
    again.embed_views(images, "squash")
    assert again._encoders is not None


def test_a_damaged_or_foreign_embedding_on_disk_is_made_anew(clip_folder, tmp_path):
    cache = tmp_path / "cache"
    expected = Backbone(str(clip_folder), cache=str(cache)).embed_views([scene(1)], "squash")[0]
    (file,) = cache.rglob("*.npy")
    for damage in (b"", b"no array", file.read_bytes()[:-3]):
        file.write_bytes(damage)
        assert np.allclose(
            Backbone(str(clip_folder), cache=str(cache)).embed_views([scene(1)], "squash")[0], expected
        )
    np.save(file, np.full((1, 16), np.nan, np.float32))
    assert np.isfinite(
        Backbone(str(clip_folder), cache=str(cache)).embed_views([scene(1)], "squash")[0]
    ).all()


def test_nothing_is_loaded_before_the_first_picture_and_release_frees_the_network(clip_folder, head_file):
    load_backbone.cache_clear()
    scorer = Aesthetic(str(clip_folder), str(head_file), view="letterbox")
    assert scorer.backbone._encoders is None
    before = scorer.score([scene(1)], [""])
    alive = weakref.ref(scorer.backbone.encoders[0].__self__)
    scorer.release()
    gc.collect()
    assert alive() is None and scorer.backbone._encoders is None
    assert scorer.score([scene(1)], [""]) == before


def test_the_hash_is_the_whole_files_digest(clip_folder):
    data = (clip_folder / "open_clip_model.safetensors").read_bytes()
    assert Backbone(str(clip_folder)).hash == hashlib.sha256(data).hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai-vit-l-15", "unknown backbone"),
        ("ViT-L-14:no-such-tag", "neither a file nor a tag"),
        ("package:miniature/weights/nothing", "holds no"),
        ("package:no_such_package/weights", "not installed"),
    ],
)
def test_a_backbone_that_is_not_there_is_named_with_what_would_do(name, said):
    with pytest.raises(UserError, match=said):
        describe(name)


def test_a_folder_without_weights_says_which_file_to_put_where(tmp_path):
    with pytest.raises(UserError) as error:
        describe(str(tmp_path))
    assert "open_clip_config.json" in str(error.value) + str(error.value.where)


def test_copies_score_the_top_of_repetition_and_a_scene_below(clip_folder):
    measure = SelfSimilarity(str(clip_folder))
    copied, mirrored, single = measure.score([copies(1), mirrored_copies(1), scene(2)], [""] * 3)
    assert copied == pytest.approx(1.0, abs=1e-5)
    assert mirrored == pytest.approx(1.0, abs=1e-5)
    assert single < 0.999
    assert measure.score([scene(1, 32, 32)], [""]) == [0.0]


def mirrored_copies(seed):
    strip = copies(seed, 2)
    square = strip.crop((0, 0, 32, 32))
    strip.paste(square.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (32, 0))
    return strip


def test_far_pairs_share_no_pixel():
    boxes = window_boxes(512, 128)
    pairs = far_pairs(boxes)
    assert (0, 1) not in pairs and (0, 2) in pairs and len(pairs) == 15


def test_excess_subtracts_what_the_prompt_alone_makes_alike():
    rng = np.random.default_rng(0)
    style = rng.normal(size=16)

    def scroll(copies):
        plain = np.stack([style + 0.8 * rng.normal(size=16) for _ in range(7)])
        plain = np.repeat(plain[:1], 7, axis=0) if copies else plain
        plain /= np.linalg.norm(plain, axis=1, keepdims=True)
        return Windows(plain, plain)

    pairs = far_pairs(window_boxes(512, 128))
    others = [scroll(copies=False) for _ in range(4)]
    plain = np.mean([excess(scroll(copies=False), others, pairs) for _ in range(20)])
    repeated = np.mean([excess(scroll(copies=True), others, pairs) for _ in range(20)])
    assert abs(plain) < 0.05
    assert repeated > 0.15
    with pytest.raises(ValueError, match="other seed"):
        excess(others[0], [], pairs)
