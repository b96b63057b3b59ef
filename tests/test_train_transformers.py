"""Preference training of flow-matching transformers: the same gradient, exports that diffusers opens."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file

from drspo.errors import UserError
from generate.models.family import load_family
from generate.models.schedulers import shift
from tests.tiny_transformers import tiny
from tests.train_pairs import pair_rows, write
from tests.train_runs import flags, records
from train.canvas import make_canvas
from train.command import main
from train.config import TrainConfig
from train.engine.predictor import transformer_predictor
from train.lora.adapters import ATTENTION, TEXT_STREAM, add_lora, named_lora_parameters
from train.objective.noise import noise_process
from train.settings import CanvasConfig

KINDS = ("sd3", "flux")
SMALL = {"canvas__width": 64, "canvas__window": 32, "canvas__stride": 16}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", pair_rows(6, (32, 64)))


def run(kind, golden, source, out, **settings):
    told = {"model": tiny(kind, golden), "max_steps": 2, "optimizer__lr": 1e-3, **SMALL, **settings}
    return main([*flags(golden, source, **told), "--out", str(out)])


def trained(kind, golden, source, out, **settings):
    assert run(kind, golden, source, out, **settings) == 0
    return load_file(out / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize("stage", ["blueprint", "highres"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_starts_at_the_reference_and_moves_every_projection(kind, stage, golden, source, tmp_path):
    weights = trained(kind, golden, source, tmp_path, stage=stage, max_steps=3)
    steps = records(tmp_path)
    assert steps[0]["margin"] == 0 and steps[0]["loss"] == pytest.approx(math.log(2))
    assert all(math.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
    layers = {name.rpartition(".lora_")[0] for name in weights}
    still = {layer for layer in layers if not weights[f"{layer}.lora_B.weight"].any()}
    # SD3's last block leaves the text behind, whose queries then change nothing
    assert still == ({"transformer.transformer_blocks.1.attn.add_q_proj"} if kind == "sd3" else set())
    assert all(any(layer.endswith(name) for layer in layers) for name in ATTENTION + TEXT_STREAM)


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_schedules_and_both_ways_of_sharing_calls_give_one_gradient(kind, golden, source, tmp_path):
    made = {
        schedule: trained(
            kind, golden, source, tmp_path / schedule, stage="highres", memory__schedule=schedule,
            memory__window_batch=2, canvas__time_ids="crop", optimizer__name="adamw", loss__beta=50,
        )
        for schedule in ("stream", "two_pass", "autograd")
    }  # fmt: skip
    for name, value in made["autograd"].items():
        assert torch.allclose(made["stream"][name], value, atol=2e-5), name
        assert torch.allclose(made["two_pass"][name], value, atol=2e-5), name
    apart = trained(kind, golden, source, tmp_path / "apart", memory__window_batch=1)
    together = trained(kind, golden, source, tmp_path / "together", memory__window_batch=2)
    assert all(torch.allclose(apart[name], together[name], atol=2e-5) for name in apart)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_opens_the_export_and_paints_otherwise(kind, golden, source, tmp_path):
    trained(kind, golden, source, tmp_path, optimizer__lr=1e-2)
    pipe = DiffusionPipeline.from_pretrained(tiny(kind, golden))
    pipe.set_progress_bar_config(disable=True)
    before = painted(pipe)
    pipe.load_lora_weights(tmp_path)
    assert (painted(pipe) - before).abs().max() > 1e-4
    worn = pipe.transformer.peft_config["default_0"]
    assert (worn.r, worn.lora_alpha) == (4, 8)
    assert json.loads((tmp_path / "drspo.json").read_text())["targets"] == sorted(ATTENTION + TEXT_STREAM)
    assert not (tmp_path / "kohya.safetensors").exists()


def painted(pipe):
    generator = torch.Generator().manual_seed(0)
    told = {"height": 128, "width": 128, "num_inference_steps": 2, "output_type": "latent"}
    return pipe("a lake", generator=generator, **told).images


@pytest.mark.parametrize("kind", KINDS)
def test_generation_wears_the_lora_and_training_goes_on_from_it(kind, golden, source, tmp_path):
    first = trained(kind, golden, source, tmp_path / "first")
    family = load_family(str(tiny(kind, golden)), device="cpu")
    family.load_lora(tmp_path / "first")
    assert "default" in family.loras
    told = {"lora__init": tmp_path / "first", "max_steps": 1, "optimizer__lr": 1e-9}
    again = trained(kind, golden, source, tmp_path / "again", **told)
    assert all(torch.allclose(again[name], first[name], atol=1e-7) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_asked_as_diffusers_asks_it(kind, golden):
    """One window in training: the velocity of the plain transformer, its time 1000 sigma."""
    family = load_family(str(tiny(kind, golden)), device="cpu")
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    text = torch.randn(1, 7, family.transformer.config.joint_attention_dim, generator=generator)
    pooled = torch.randn(1, family.transformer.config.pooled_projection_dim, generator=generator)
    canvas = make_canvas(config(height=128, width=128), family.spec)
    predict = transformer_predictor(family.denoiser, 400.0, text, pooled, (128, 128))
    ours = predict(latents, list(canvas.windows))
    if kind == "sd3":
        plain = family.transformer(latents, text, pooled, torch.tensor([400.0]), return_dict=False)[0]
    else:
        pack, unpack = type(family.pipe)._pack_latents, type(family.pipe)._unpack_latents
        ids = type(family.pipe)._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)
        packed = family.transformer(
            hidden_states=pack(latents, 1, 4, 16, 16), encoder_hidden_states=text, pooled_projections=pooled,
            timestep=torch.tensor([0.4]), img_ids=ids, txt_ids=torch.zeros(7, 3),
            guidance=torch.tensor([1.0]), return_dict=False,
        )[0]  # fmt: skip
        plain = unpack(packed, 128, 128, 8)
    assert torch.allclose(ours, plain, atol=1e-5)


def test_flux_draws_the_levels_that_a_sampler_of_that_size_visits():
    told = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}
    scheduler = FlowMatchEulerDiscreteScheduler(**told)
    size = (64, 64)
    process = noise_process(
        dict(scheduler.config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}, size=size
    )
    levels = torch.linspace(1.0, 1 / 1000, 1000, dtype=torch.float64).numpy()
    scheduler.set_timesteps(sigmas=levels, mu=shift(scheduler.config, size))
    assert torch.allclose(
        torch.tensor(process.noise, dtype=torch.float64).flip(0), scheduler.sigmas[:-1].double(), atol=1e-6
    )
    with pytest.raises(ValueError, match="needs one"):
        noise_process(dict(scheduler.config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"})


def test_without_a_target_the_checkpoints_own_is_trained():
    assert noise_process({"_class_name": "FlowMatchEulerDiscreteScheduler"}).target == "flow"
    assert noise_process({"prediction_type": "v_prediction"}).target == "v"
    assert noise_process({}).target == "epsilon"


def test_what_diffusers_loads_no_lora_into_is_refused_before_any_pair_is_read(golden, source, tmp_path):
    with pytest.raises(UserError, match="diffusers loads no LoRA"):
        run("pixart-sigma", golden, source, tmp_path / "out")
    assert not (tmp_path / "out" / "pairs.json").exists()


def config(**sizes) -> TrainConfig:
    own = {"window": 128, "stride": 64} | sizes
    return TrainConfig(stage="highres", canvas=CanvasConfig(**own))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"height": 128, "width": 256, "window": 120}, "multiples of 16"),
        ({"height": 128, "width": 256, "stride": 56, "time_ids": "crop"}, "tokens"),
        ({"height": 128, "width": 512, "time_ids": "crop"}, "positions for 384"),
    ],
)
def test_windows_that_a_transformer_cannot_see_are_refused(sizes, said, golden):
    family = load_family(str(tiny("sd3", golden)), device="cpu")
    with pytest.raises(UserError, match=said):
        make_canvas(config(**sizes), family.spec)


def test_a_lora_on_named_layers_alone_sits_there_alone(golden):
    family = load_family(str(tiny("flux", golden)), device="cpu")
    add_lora(family.transformer, rank=2, targets=("to_q",))
    assert all(".to_q." in name for name in named_lora_parameters(family.transformer))
