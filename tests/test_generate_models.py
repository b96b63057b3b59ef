"""Checkpoints open from folders, and what is missing or does not fit is said before anything loads."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from drspo.errors import UserError
from generate.images.vae import scale_factor
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.models.family import load_family
from generate.models.fingerprint import fingerprint
from generate.models.specs import MODELS
from generate.models.weights import locate
from generate.request import build_generator
from tests.small_scrolls import SMALL, distance, small_request
from tests.tiny_models import make_controlnet

LOADING = "generate.models.family.load_networks"


@pytest.fixture
def tiny(golden):
    """tiny-sdxl, loaded afresh for tests that change it."""
    return load_family(str(golden / "models" / "tiny-sdxl"), device="cpu")


@pytest.mark.parametrize(
    ("name", "kind", "window", "zeros"), [("tiny-sd", "sd", 512, False), ("tiny-sdxl", "sdxl", 1024, True)]
)
def test_a_folders_facts_come_from_its_own_settings(golden, name, kind, window, zeros):
    family = load_family(str(golden / "models" / name))
    assert (family.kind, family.spec.window, family.spec.stride) == (kind, window, window // 4)
    assert family.spec.scroll == (window, 4 * window)
    assert family.zero_empty_negative is zeros
    assert family.factor == scale_factor(family.vae) == 8
    assert family.denoiser.tells_sizes is (kind == "sdxl")
    assert not any(p.requires_grad for p in family.unet.parameters())
    assert not family.unet.training


@pytest.mark.parametrize(
    ("upcast", "dtype", "expected"),
    [
        (True, "bfloat16", torch.float32),
        (True, "float16", torch.float32),
        (False, "float16", torch.float32),
        (False, "bfloat16", torch.bfloat16),
    ],
)
def test_the_autoencoder_is_never_in_float16(golden, tmp_path, upcast, dtype, expected):
    folder = shutil.copytree(golden / "models" / "tiny-sdxl", tmp_path / "model")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": upcast}))
    family = load_family(str(folder), dtype=dtype)
    assert str(family.unet.dtype) == f"torch.{dtype}"
    assert family.vae.dtype == expected


def test_latents_are_kept_in_single_precision(golden):
    family = load_family(str(golden / "models" / "tiny-sdxl"), dtype="bfloat16")
    latents = MultiDiffusion(family, Config(**SMALL)).sample(small_request(steps=1)).latents
    assert latents.dtype == torch.float32


def test_half_precision_stays_near_single_precision(golden, tiny):
    half = load_family(str(golden / "models" / "tiny-sdxl"), dtype="bfloat16")
    single, rough = (
        MultiDiffusion(f, Config(**SMALL)).sample(small_request(steps=1)).latents for f in (tiny, half)
    )
    assert 0 < distance(rough, single) < 0.1


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet"),
        ("text_encoder_2/model.safetensors", "text_encoder_2"),
        ("tokenizer/tokenizer_config.json", "tokenizer"),
        ("scheduler/scheduler_config.json", "scheduler"),
        ("model_index.json", "model_index"),
    ],
)
def test_a_missing_file_is_named_before_anything_loads(golden, tmp_path, file, part):
    folder = shutil.copytree(golden / "models" / "tiny-sdxl", tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(UserError, match=file.replace(".", r"\.")) as error:
        load_family(str(folder))
    assert str(folder) in str(error.value)


def test_a_mistyped_model_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'miniature'"):
        load_family("minature")


def test_an_unreachable_hub_id_says_which_file_and_how_to_get_it(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(UserError, match="hf download owner/some-model") as error:
        load_family("owner/some-model")
    assert "unet/diffusion_pytorch_model.safetensors" in str(error.value)


def test_a_model_of_another_kind_is_refused(golden, tmp_path):
    folder = shutil.copytree(golden / "models" / "tiny-sdxl", tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(UserError, match="AutoencoderKL"):
        load_family(str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "cuda:77x"}, "Unknown device"), ({"dtype": "float8"}, "Unknown dtype")],
)
def test_unknown_devices_and_dtypes_are_refused(golden, options, message):
    with pytest.raises(UserError, match=message):
        load_family(str(golden / "models" / "tiny-sdxl"), **options)


def test_the_fingerprint_follows_the_weights_not_the_place(golden, tmp_path):
    folder = shutil.copytree(golden / "models" / "tiny-sdxl", tmp_path / "model")
    original = fingerprint(locate(str(golden / "models" / "tiny-sdxl")))
    assert fingerprint(locate(str(folder))) == original
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert fingerprint(locate(str(folder))) != original


def test_every_named_model_has_sizes_that_fit_together():
    for spec in MODELS.values():
        assert all(size % 8 == 0 for size in (spec.window, spec.stride, *spec.scroll, *spec.blueprint))
        assert spec.scroll[0] * spec.blueprint[1] == spec.scroll[1] * spec.blueprint[0]
        assert spec.window <= min(spec.scroll)


def write_lora(folder, family, rank=2, strength=0.5, facts=None):
    """A LoRA folder in diffusers' layout with random weights on the UNet's attention."""
    torch.manual_seed(0)
    family.unet.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=["to_q", "to_k", "to_v", "to_out.0"],
            init_lora_weights=False,
        ),
        "made",
    )
    state = {
        f"unet.{k}": v.clone() * strength
        for k, v in get_peft_model_state_dict(family.unet, adapter_name="made").items()
    }
    family.unet.delete_adapters("made")
    folder.mkdir(exist_ok=True)
    save_file(state, str(folder / "pytorch_lora_weights.safetensors"))
    if facts is not None:
        (folder / "drspo.json").write_text(json.dumps(facts))
    return folder


def scroll(family):
    return MultiDiffusion(family, Config(**SMALL)).sample(small_request(steps=1)).latents


def test_a_lora_acts_scales_and_switches_off(golden, tiny, tmp_path):
    folder = write_lora(tmp_path / "lora", tiny)
    before = scroll(tiny)
    tiny.load_lora(folder, 1.0, "one")
    acting = scroll(tiny)
    assert distance(acting, before) > 1e-3
    tiny.use_lora(None)
    assert distance(scroll(tiny), before) < 1e-5
    tiny.use_lora("one")
    assert torch.equal(scroll(tiny), acting)
    tiny.load_lora(folder, 0.0, "nothing")
    assert distance(scroll(tiny), before) < 1e-5
    assert not any(p.requires_grad for p in tiny.unet.parameters())


def test_a_lora_reaches_the_shared_prompts_keys_and_values(golden, tiny, tmp_path):
    """Keys and values are computed once per scroll, through the LoRA and not around it."""
    folder = write_lora(tmp_path / "lora", tiny)
    tiny.load_lora(folder, 1.0, "one")
    from tests.test_generate_fusion import one_window_at_a_time, prediction

    ours, _ = prediction(tiny)
    assert distance(ours, one_window_at_a_time(tiny, 5.0)) < 5e-5


def test_a_lora_of_another_base_is_refused_by_its_shapes(golden, tiny, tmp_path):
    folder = write_lora(tmp_path / "lora", load_family(str(golden / "models" / "tiny-sd")))
    with pytest.raises(UserError, match="of another base"):
        tiny.load_lora(folder)


def test_a_lora_of_another_base_is_refused_by_its_record_and_allowed_on_request(golden, tiny, tmp_path):
    folder = write_lora(
        tmp_path / "lora", tiny, facts={"base_model": "owner/other", "base_fingerprint": "0" * 12}
    )
    with pytest.raises(UserError, match="owner/other"):
        tiny.load_lora(folder)
    tiny.load_lora(folder, other_base=True)


def test_a_lora_of_the_same_weights_at_another_path_is_accepted(golden, tiny, tmp_path):
    folder = write_lora(
        tmp_path / "lora", tiny, facts={"base_model": "/elsewhere", "base_fingerprint": tiny.fingerprint}
    )
    tiny.load_lora(folder)
    assert tiny.loras["default"]["base_model"] == "/elsewhere"


@pytest.mark.parametrize(
    ("name", "message"), [("nothing-here", "no LoRA at"), ("lora.bin", "not a .safetensors")]
)
def test_a_missing_or_unsafe_lora_file_is_refused(tiny, tmp_path, name, message):
    (tmp_path / "lora.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        tiny.load_lora(tmp_path / name)


def test_generators_are_built_by_name_with_their_settings(tiny):
    mad = build_generator("mad", tiny, {"threshold": 3})
    assert (mad.name, mad.config.threshold) == ("mad", 3)
    with pytest.raises(UserError, match="multidiffusion"):
        build_generator("multidifusion", tiny)
    with pytest.raises(UserError, match="threshold"):
        build_generator("mad", tiny, {"treshold": 3})


def test_a_controlnet_of_another_base_is_refused_before_any_weights_are_read(golden, tmp_path, monkeypatch):
    control = make_controlnet(golden / "models" / "tiny-sdxl", tmp_path)
    monkeypatch.setattr(
        "generate.models.family.load_networks", lambda *a: pytest.fail("the model was loaded")
    )
    with pytest.raises(UserError, match="of another base than .*tiny-sd: its .* is"):
        load_family(
            str(golden / "models" / "tiny-sd"),
            controlnet=True,
            controlnet_source=str(control),
            conditioning="canny",
        )


def test_a_base_without_a_published_controlnet_says_how_to_go_on(golden):
    with pytest.raises(UserError, match="names no canny ControlNet") as error:
        load_family(str(golden / "models" / "tiny-sd"), controlnet=True)
    assert "--controlnet" in error.value.hint


def test_a_missing_controlnet_is_named_before_any_weights_are_read(golden, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "generate.models.family.load_networks", lambda *a: pytest.fail("the model was loaded")
    )
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    with pytest.raises(UserError, match=r"diffusion_pytorch_model.safetensors of the model .* is missing"):
        load_family(
            str(golden / "models" / "tiny-sdxl"),
            controlnet=True,
            controlnet_source=str(tmp_path),
            conditioning="canny",
        )
