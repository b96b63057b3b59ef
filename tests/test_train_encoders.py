"""Cached tensors belong to the encoders that made them, not to the whole checkpoint."""

import pytest
import torch

from generate.models.family import load_family
from train.pairs.encoders import digest, image_encoder_mark, text_encoder_mark


@pytest.fixture
def family(golden):
    return load_family(str(golden / "models" / "tiny-sdxl"), device="cpu")


def marks(family) -> tuple[str, str]:
    return image_encoder_mark(family), text_encoder_mark(family)


def nudge(network, name: str) -> None:
    """Changes one number of a network."""
    parameter = dict(network.named_parameters())[name]
    with torch.no_grad():
        parameter.view(-1)[0] += 1e-3


def test_another_unet_or_decoder_leaves_what_is_cached(family):
    before = marks(family)
    nudge(family.unet, "conv_in.weight")
    nudge(family.vae, "decoder.conv_in.weight")
    family.fingerprint = "another"
    assert marks(family) == before


@pytest.mark.parametrize("name", ["encoder.conv_in.weight", "quant_conv.bias"])
def test_another_encoder_of_pictures_changes_the_latents_mark_alone(family, name):
    latents, texts = marks(family)
    nudge(family.vae, name)
    assert image_encoder_mark(family) != latents and text_encoder_mark(family) == texts


def test_another_text_encoder_changes_the_embeddings_mark_alone(family):
    latents, texts = marks(family)
    nudge(family.text_encoders[1], next(name for name, _ in family.text_encoders[1].named_parameters()))
    assert image_encoder_mark(family) == latents and text_encoder_mark(family) != texts


def test_scale_and_number_format_belong_to_the_marks(family):
    latents, texts = marks(family)
    family.vae.register_to_config(scaling_factor=0.5)
    assert image_encoder_mark(family) != latents
    family.text_encoders[0].to(torch.bfloat16)
    assert text_encoder_mark(family) != texts


def test_the_digest_sees_names_shapes_types_and_bytes_but_not_the_order():
    one, two = torch.arange(6.0), torch.ones(2, dtype=torch.bfloat16)
    same = digest([("a", one), ("b", two)])
    assert digest([("b", two), ("a", one)]) == same
    others = [[("a", one.view(2, 3)), ("b", two)], [("a", one), ("c", two)], [("a", one + 1), ("b", two)]]
    others += [[("a", one), ("b", two.half())]]
    assert len({same, *(digest(items) for items in others)}) == 5
