"""The shipped folders open with the field's own loaders and do roughly what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from miniature.detector import count_objects
from miniature.pictures import FRESH_SEED
from miniature.world import SUBJECTS, captions, countable, paint, sample_scene

WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionXLPipeline

    loaded = StableDiffusionXLPipeline.from_pretrained(
        WEIGHTS / "sdxl", torch_dtype=torch.float32, local_files_only=True
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def clip():
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{WEIGHTS / 'clip'}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{WEIGHTS / 'clip'}")


SDXL_FAMILY = ("sdxl", "controlnet", "clip", "aesthetic", "detector")


def test_all_weights_together_stay_small_and_in_half_precision():
    files = sorted(WEIGHTS.rglob("*.safetensors"))
    family = [path for path in files if path.relative_to(WEIGHTS).parts[0] in SDXL_FAMILY]
    assert sum(path.stat().st_size for path in family) < 60e6
    assert sum(path.stat().st_size for path in files) < 80e6
    for path in files:
        with safe_open(path, "pt") as file:
            kinds = {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path


def test_the_pipeline_has_the_parts_and_the_schedule_of_sdxl(pipe):
    assert pipe.unet.config.addition_embed_type == "text_time"
    assert pipe.unet.config.down_block_types == [
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
    ]
    widths = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
    assert pipe.unet.config.cross_attention_dim == widths
    assert pipe.vae_scale_factor == 8 and pipe.vae.config.latent_channels == 4
    schedule = pipe.scheduler.config
    assert (schedule.beta_start, schedule.beta_end, schedule.beta_schedule) == (
        0.00085,
        0.012,
        "scaled_linear",
    )
    assert (schedule.timestep_spacing, schedule.steps_offset, schedule.prediction_type) == (
        "leading",
        1,
        "epsilon",
    )
    assert pipe.config.force_zeros_for_empty_prompt


def test_the_pipeline_paints_a_finite_picture_and_the_same_one_again(pipe):
    first, second = (_square(pipe, "a castle in a green meadow at noon under a clear sky") for _ in range(2))
    assert first.shape == (128, 128, 3) and np.array_equal(first, second)
    assert first.std() > 10


def _square(pipe, text: str) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    image = pipe(
        text, num_inference_steps=6, guidance_scale=3.0, generator=generator, output_type="np"
    ).images[0]
    assert np.isfinite(image).all()
    return (image * 255).round().astype(np.uint8)


def test_night_is_painted_darker_than_noon(pipe):
    noon, night = (
        _square(pipe, f"a pine tree in the snow {hour} under a clear sky").mean()
        for hour in ("at noon", "at night")
    )
    assert night < noon


def test_the_autoencoder_gives_pictures_back(pipe):
    from miniature.fit_autoencoder import psnr, reconstruct

    fresh = np.stack([paint(sample_scene(FRESH_SEED + index, 128, 128)) for index in range(4)])
    assert psnr(fresh, reconstruct(pipe.vae, fresh)) > 25


def test_copies_of_fresh_scenes_keep_most_of_their_edges_and_get_no_frame(pipe):
    from miniature import fidelity
    from miniature.fit_autoencoder import reconstruct

    scenes = [sample_scene(FRESH_SEED + 400_000 + seed, 128, 128) for seed in range(24)]
    drawn = np.stack([paint(scene) for scene in scenes])
    copies = reconstruct(pipe.vae, drawn)
    assert fidelity.sharpness(drawn, copies, [countable(scene) for scene in scenes]) > 0.75
    border, inside = fidelity.frame(copies)
    assert border <= 1.2 * inside


def test_the_tokenizer_takes_any_text_and_returns_it(pipe):
    text = "a naïve 7-storey pagoda ☃!"
    tokens = pipe.tokenizer(text).input_ids
    assert max(tokens) < pipe.text_encoder.config.vocab_size
    assert pipe.tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert pipe.tokenizer.model_max_length == 77


def test_a_word_of_the_world_is_one_token(pipe):
    for word in (*SUBJECTS, "dawn", "dusk", "meadow", "misty", "left"):
        assert len(pipe.tokenizer(word).input_ids) == 3


def test_the_tokenizer_folders_hold_vocabulary_and_merges():
    for folder in ("sdxl/tokenizer", "sdxl/tokenizer_2", "clip"):
        assert {"vocab.json", "merges.txt"} <= {path.name for path in (WEIGHTS / folder).iterdir()}


def test_the_controlnet_fits_the_unet(pipe):
    from diffusers import ControlNetModel

    control = ControlNetModel.from_pretrained(WEIGHTS / "controlnet", local_files_only=True)
    assert control.config.block_out_channels == pipe.unet.config.block_out_channels
    hidden, _, pooled, _ = pipe.encode_prompt("a gate", device="cpu")
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]])}
    edges, noisy = torch.zeros(1, 3, 128, 128), torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        down, mid = control(noisy, 500, hidden, edges, added_cond_kwargs=added, return_dict=False)
        steered = pipe.unet(noisy, 500, hidden, added_cond_kwargs=added, down_block_additional_residuals=down,
                            mid_block_additional_residual=mid).sample  # fmt: skip
    assert steered.shape == noisy.shape and torch.isfinite(steered).all()


def test_clip_finds_the_caption_of_a_picture_among_eight(clip):
    from PIL import Image

    model, preprocess, tokenizer = clip
    scenes = [sample_scene(FRESH_SEED + 40 + index, 128, 128, subject=subject, time=time)
              for index, (subject, time) in enumerate((s, t) for s in ("castle", "balloon", "pine", "gate")
                                                      for t in ("noon", "night"))]  # fmt: skip
    pictures = torch.stack([preprocess(Image.fromarray(paint(scene))) for scene in scenes])
    with torch.no_grad():
        seen = model.encode_image(pictures, normalize=True)
        said = model.encode_text(tokenizer([captions(scene)[0] for scene in scenes]), normalize=True)
    assert ((seen @ said.T).argmax(1) == torch.arange(8)).float().mean() >= 0.75


def test_the_aesthetic_head_has_laions_shape_and_prefers_a_sharp_dusk_to_a_grey_blur(clip):
    from PIL import Image

    from miniature.aesthetics import Damage, degrade
    from miniature.fit_heads import AestheticHead

    with safe_open(WEIGHTS / "aesthetic" / "aesthetic.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    shapes = [tuple(tensors[f"layers.{index}.weight"].shape) for index in (0, 2, 4, 6, 7)]
    assert shapes == [(1024, 128), (128, 1024), (64, 128), (16, 64), (1, 16)]
    head = AestheticHead()
    head.load_state_dict(tensors)
    model, preprocess, _ = clip
    rng = np.random.default_rng(0)
    sharp = [paint(sample_scene(seed, 128, 128, time="dusk", weather="clear")) for seed in range(4)]
    dull = [degrade(picture, Damage(blur=3.5, saturation=0.4, contrast=0.5), rng) for picture in sharp]
    shown = torch.stack([preprocess(Image.fromarray(picture)) for picture in (*sharp, *dull)])
    with torch.no_grad():
        scores = head.eval()(model.encode_image(shown, normalize=True))
    assert scores[:4].mean() > scores[4:].mean() + 1


def test_the_detector_counts_what_was_drawn():
    missed = wrong = present = 0
    for seed in range(12):
        scene = sample_scene(FRESH_SEED + 70 + seed, 128, (128, 512)[seed % 2])
        found = sorted(here.kind for here in count_objects(paint(scene)))
        wanted = sorted(thing.name for thing in countable(scene))
        present += len(wanted)
        missed += sum(name not in found for name in wanted)
        wrong += len(found) - sum(name in wanted for name in set(found))
    assert missed <= 2 and wrong <= 2 and present == 24


def test_the_detector_counts_a_repeated_subject_twice():
    square = paint(sample_scene(FRESH_SEED + 3, 128, 128, subject="gate", time="noon", weather="clear"))
    assert sum(here.kind == "gate" for here in count_objects(np.hstack([square, square]))) == 2


def test_no_shipped_file_tells_of_the_machine_that_made_it():
    for path in [*WEIGHTS.rglob("*.json"), *WEIGHTS.rglob("*.log")]:
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text and "/home/" not in text, path
