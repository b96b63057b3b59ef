"""LoRAs, memory and resting networks of transformer families."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from drspo.errors import UserError
from generate.methods.direct import Direct
from generate.models.family import load_family
from generate.models.footprint import activation_bytes, weight_bytes
from generate.models.offload import Offload
from generate.request import Request
from tests.tiny_transformers import tiny


def _request(**changes) -> Request:
    told = {"prompt": "a misty river", "height": 128, "width": 128, "steps": 2, "guidance_scale": 3.0}
    return Request(**(told | changes))


def _lora(kind, golden, folder, prefix="transformer"):
    """A LoRA file whose matrices are not zero, made on a network of this kind."""
    network = load_family(str(tiny(kind, golden)), device="cpu").transformer
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]), "made")
    state = get_peft_model_state_dict(network, adapter_name="made")
    generator = torch.Generator().manual_seed(0)
    drawn = {f"{prefix}.{key}": torch.randn(value.shape, generator=generator) for key, value in state.items()}
    save_file(drawn, folder / "lora.safetensors")
    return folder / "lora.safetensors"


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_lora_of_the_family_is_worn_and_taken_off(kind, golden, tmp_path):
    family = load_family(str(tiny(kind, golden)), device="cpu")
    request = _request()
    plain = Direct(family).generate([request])[0].latents
    family.load_lora(_lora(kind, golden, tmp_path))
    worn = Direct(family).generate([request])[0].latents
    family.use_lora(None)
    assert float((worn - plain).abs().max()) > 1e-3
    assert torch.equal(Direct(family).generate([request])[0].latents, plain)


def test_pixart_wears_no_lora_since_diffusers_loads_none_into_it(golden, tmp_path):
    family = load_family(str(tiny("pixart-sigma", golden)), device="cpu")
    with pytest.raises(UserError, match="diffusers loads no LoRA into a PixArtSigmaPipeline"):
        family.load_lora(_lora("sd3", golden, tmp_path))


def test_a_lora_of_another_family_is_refused(golden, tmp_path):
    family = load_family(str(tiny("sd3", golden)), device="cpu")
    with pytest.raises(UserError, match="of another base"):
        family.load_lora(_lora("flux", golden, tmp_path))
    with pytest.raises(UserError, match="no LoRA for a transformer"):
        family.load_lora(_lora("sd3", golden, tmp_path, prefix="unet"))


def test_counted_activations_are_those_that_are_alive_at_once():
    wide = torch.nn.Sequential(torch.nn.Linear(10, 1000), torch.nn.GELU(), torch.nn.Linear(1000, 10)).to(
        "meta"
    )
    given = torch.empty(100, 10, device="meta")
    assert activation_bytes(lambda: wide(given)) == 2 * 100 * 1000 * 4
    assert weight_bytes(wide) == 4 * (10 * 1000 + 1000 + 1000 * 10 + 10)


class _Network:
    """A network that remembers where it has been."""

    def __init__(self, log, name):
        self.log, self.name, self.device = log, name, torch.device("cpu")

    def to(self, device):
        self.device = device
        self.log.append((self.name, device.type))


def test_networks_leave_the_device_before_others_come():
    log = []
    networks = {role: [_Network(log, role)] for role in ("text", "denoise", "vae")}
    offload = Offload(torch.device("meta"), networks)
    offload.wake("text")
    offload.wake("text")
    offload.wake("denoise")
    assert log == [("text", "meta"), ("text", "cpu"), ("denoise", "meta")]


def test_resting_changes_no_bit_and_every_role_is_woken(golden, monkeypatch):
    woken = []
    monkeypatch.setattr(Offload, "wake", lambda self, role: woken.append(role))
    family = load_family(str(tiny("sd3", golden)), device="cpu", offload=True)
    made = Direct(family).generate([_request()])[0]
    plain = Direct(load_family(str(tiny("sd3", golden)), device="cpu")).generate([_request()])[0]
    assert torch.equal(made.latents, plain.latents) and woken == ["text", "denoise", "vae"]
