"""A LoRA to start from: exact in every layout, refused where it does not fit; prompts that are left out."""

import json
import os

import pytest
import torch

from drspo.errors import UserError
from generate.models.family import load_family
from tests.train_pairs import pair_rows, write
from tests.train_runs import flags, records, train, weights
from train.command import main
from train.lora.adapters import add_lora, named_lora_parameters
from train.lora.exports import save_kohya, save_lora, save_peft
from train.lora.start import begin_from, read_start
from train.objective.draws import forgets_prompt

SMALL = (32, 64)
DROPPING = {"data__prompt_dropout": 0.5}


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "models" / "tiny-sdxl"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    os.environ["DRSPO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", pair_rows(10, SMALL))
    del os.environ["DRSPO_CACHE"]


@pytest.fixture(scope="module")
def trained(folder):
    """The tiny SDXL with a LoRA of rank 4 and alpha 8 that changes its output."""
    unet = load_family(str(folder), device="cpu").unet
    add_lora(unet, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in named_lora_parameters(unet).items():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return unet


def changes(unet):
    """scale B A of every layer."""
    named, scale = named_lora_parameters(unet), next(iter(scales(unet)))
    pairs = [(a, named[name.replace("lora_A", "lora_B")]) for name, a in named.items() if "lora_A" in name]
    return [scale * (b @ a).detach() for a, b in pairs]


def scales(unet):
    return {float(m.scaling["default"]) for m in unet.modules() if hasattr(m, "lora_A")}


def begun(folder, source, rank=4, alpha=8.0, targets=("to_q", "to_k", "to_v", "to_out.0")):
    family = load_family(str(folder), device="cpu")
    start = read_start(family, str(source))
    add_lora(family.unet, rank, alpha, targets)
    begin_from(family.unet, start)
    return family.unet


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("alpha", [8.0, 4.0])
def test_training_starts_at_the_given_lora_whatever_its_layout_and_alpha(
    folder, trained, tmp_path, layout, alpha
):
    if layout == "diffusers":
        save_lora(tmp_path, trained, {"stage": "blueprint"})
        source = tmp_path
    else:
        source = save_kohya(tmp_path / "lora.safetensors", trained, {"stage": "blueprint"})
    unet = begun(folder, source, alpha=alpha)
    assert set(unet.peft_config) == {"default"}
    for ours, theirs in zip(changes(unet), changes(trained), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(parameter.requires_grad for parameter in named_lora_parameters(unet).values())


def test_a_lora_of_another_rank_or_of_other_layers_is_refused(folder, trained, tmp_path):
    save_lora(tmp_path, trained, {"stage": "blueprint"})
    with pytest.raises(UserError, match="rank 4 and this run's LoRA rank 2"):
        begun(folder, tmp_path, rank=2)
    with pytest.raises(UserError, match="have no adapter here"):
        begun(folder, tmp_path, targets=("to_q",))


def test_peft_opens_the_folder_and_computes_the_same(folder, trained, tmp_path):
    from peft import PeftModel

    save_peft(tmp_path, trained)
    base = load_family(str(folder), device="cpu").unet
    opened = PeftModel.from_pretrained(base, tmp_path)
    embeds, generator = torch.randn(1, 7, base.config.cross_attention_dim), torch.Generator().manual_seed(0)
    pooled = base.config.projection_class_embeddings_input_dim - 6 * base.config.addition_time_embed_dim
    extra = {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.full((1, 6), 128.0)}
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    with torch.no_grad():
        ours, theirs = (
            unet(latents, 500, embeds, added_cond_kwargs=extra, return_dict=False)[0]
            for unet in (trained, opened)
        )
    assert torch.equal(ours, theirs)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_alpha"] == 8


def test_a_second_stage_starts_where_the_first_ended_and_goes_on_without_it(golden, source, tmp_path):
    first = train(golden, source, tmp_path / "first", max_steps=2)
    before = weights(first)
    rest = {"stage": "highres", "lora__init": first, "optimizer__lr": 1e-12, "checkpoint_every": 1}
    second = train(golden, source, tmp_path / "second", max_steps=1, **rest)
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in weights(second).items())
    assert records(second)[0]["margin"] != 0.0, "it is held to the base model, not to its start"
    (first / "pytorch_lora_weights.safetensors").unlink()
    assert main(["--resume", str(second), "--max-steps", "2"]) == 0
    assert len(records(second)) == 2


def test_a_start_that_is_none_is_said_before_anything_is_encoded(golden, source, tmp_path):
    argv = [*flags(golden, source, lora__init=tmp_path / "nothing"), "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="no LoRA at"):
        main(argv)
    assert not (tmp_path / "run" / "pairs.json").exists()


def test_the_share_of_draws_without_a_prompt_is_the_one_that_was_asked():
    assert not any(forgets_prompt(seed, 0.0) for seed in range(100))
    share = sum(forgets_prompt(seed, 0.25) for seed in range(4000)) / 4000
    assert share == pytest.approx(0.25, abs=0.03)


def test_leaving_prompts_out_changes_those_draws_and_no_other(golden, source, tmp_path):
    plain = records(train(golden, source, tmp_path / "plain", max_steps=6, optimizer__lr=1e-12))
    some = records(train(golden, source, tmp_path / "some", max_steps=6, optimizer__lr=1e-12, **DROPPING))
    alike = [one["error_w"] == two["error_w"] for one, two in zip(plain, some, strict=True)]
    assert any(alike) and not all(alike)
