"""The IP-Adapter: pictures as prompts for the shipped SDXL miniature, by the shipped CLIP's image tower.

Ye et al. 2023: the UNet and the CLIP stay as they are; a linear layer makes four tokens of a picture's
embedding, and beside the keys and values of the text every cross-attention layer learns those of the tokens,
which begin as the text's. It learns from squares that are shown themselves, and from windows of scrolls that
are shown themselves or the whole scroll, as windows are shown a blueprint.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from miniature.captions import captions
from miniature.fit_clip import WIDTH, shrink
from miniature.fit_unet import add_noise, added, build_scheduler, weighted_error
from miniature.latents import TextStack, kept, picture_latents
from miniature.loop import Task, train
from miniature.pictures import SCROLL, SQUARE, painted, scene_of, to_tensor

WEIGHTS = Path(__file__).parent / "weights"
FILE = "ip-adapter.safetensors"
STEPS = 1000
BATCH = 12
COUNTS = {SQUARE: 1500, SCROLL: 400}
TOKENS = 4
SILENT = 0.05
"""Share of samples without text, without a picture, and without either: as the published adapters learnt."""


class Adapter(nn.Module):
    """The parts of a UNet that an IP-Adapter adds, as one model that is trained and written."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        unet.requires_grad_(False)
        unet._load_ip_adapter_weights([untrained(unet)], low_cpu_mem_usage=False)
        self.projection = unet.encoder_hid_proj.image_projection_layers[0]
        layers = [p for p in unet.attn_processors.values() if isinstance(p, nn.Module)]
        self.layers = nn.ModuleList(layers)
        self.requires_grad_(True)

    def published(self) -> dict[str, Tensor]:
        """The weights under the names that the published files have."""
        names = {"image_embeds": "image_proj.proj", "norm": "image_proj.norm"}
        state = {}
        for name, value in self.projection.state_dict().items():
            part, _, kind = name.partition(".")
            state[f"{names[part]}.{kind}"] = value
        for number, layer in enumerate(self.layers):
            for side in ("k", "v"):
                value = layer.get_parameter(f"to_{side}_ip.0.weight")
                state[f"ip_adapter.{2 * number + 1}.to_{side}_ip.weight"] = value.detach()
        return state


def untrained(unet: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    """An adapter to begin with: the text's own keys and values, and a projection that is near nothing."""
    width = unet.config.cross_attention_dim
    projection = nn.Linear(WIDTH, TOKENS * width)
    layers, number = {}, 1
    for name in unet.attn_processors:
        layer = unet.get_submodule(name.removesuffix(".processor"))
        if layer.is_cross_attention:
            layers[f"{number}.to_k_ip.weight"] = layer.to_k.weight.detach().clone()
            layers[f"{number}.to_v_ip.weight"] = layer.to_v.weight.detach().clone()
        number += 2 if layer.is_cross_attention else 0
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    named = {f"proj.{name}": value.detach() for name, value in projection.state_dict().items()}
    return {"image_proj": named | norm, "ip_adapter": layers}


def fit_ip_adapter(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text: TextStack,
    clip: open_clip.CLIP,
    work: Path,
    steps: int = STEPS,
    counts: dict[tuple[int, int], int] | None = None,
) -> Adapter:
    """Trains the adapter of frozen networks; products in bfloat16."""
    torch.manual_seed(12)
    model = Adapter(unet.eval())
    loss = _loss(unet, vae, text, clip.eval().requires_grad_(False), work, counts or COUNTS)

    def in_bfloat16(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(step)

    train(Task("ip-adapter", model, in_bfloat16, steps, rate=1e-3, warmup=100, average=0.998), work)
    return model


def _loss(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text: TextStack,
    clip: open_clip.CLIP,
    work: Path,
    counts: dict[tuple[int, int], int],
) -> Callable[[int], Tensor]:
    """The loss of a step: the noise in squares or windows, predicted with a picture known."""
    pictures = {size: painted(size, count, work) for size, count in counts.items()}
    latents = {
        size: kept(
            work / f"latents-ip-{size[0]}x{size[1]}.npy",
            len(shown),
            lambda part, shown=shown: picture_latents(vae, shown[part]),
        )
        for size, shown in pictures.items()
    }
    signal = build_scheduler().alphas_cumprod

    def loss(step: int) -> Tensor:
        windows, shown, texts = draw(pictures, latents, step)
        hidden, pooled = text.embed(texts)
        with torch.no_grad():
            seen = clip.encode_image(to_tensor([shrink(picture) for picture in shown]))
        told = torch.rand(BATCH)
        said = (~((told < SILENT) | (told >= 1 - SILENT))).float()
        shown_it = (~((told < 2 * SILENT) & (told >= SILENT) | (told >= 1 - SILENT))).float()
        hidden, conditions = hidden * said[:, None, None], added(pooled * said[:, None], SQUARE)
        conditions |= {"image_embeds": [(seen * shown_it[:, None])[:, None]]}
        noisy, noise, times = add_noise(windows, signal)
        predicted = unet(noisy, times, hidden, added_cond_kwargs=conditions).sample
        return weighted_error(predicted.float(), noise, signal[times])

    return loss


def draw(
    pictures: dict[tuple[int, int], np.ndarray], latents: dict[tuple[int, int], np.ndarray], step: int
) -> tuple[Tensor, list[np.ndarray], list[str]]:
    """Latents of squares or of scrolls' windows, the picture that each is shown, and captions."""
    rng = np.random.default_rng([step, 44])
    size = (SQUARE, SCROLL)[step % 2]
    windows, shown, texts = [], [], []
    side = SQUARE[0] // 8
    for index in rng.integers(len(pictures[size]), size=BATCH):
        left = int(rng.integers(latents[size].shape[-1] - side + 1))
        windows.append(torch.from_numpy(latents[size][index, :, :, left : left + side].copy()).float())
        picture = pictures[size][index]
        whole = size == SCROLL and rng.random() < 0.5
        shown.append(picture if whole else picture[:, 8 * left : 8 * left + SQUARE[1]])
        texts.append(str(rng.choice(captions(scene_of(size, int(index)))[:6])))
    return torch.stack(windows), shown, texts


def write_ip_adapter(model: Adapter, folder: Path) -> None:
    """The adapter's file, in the published layout and half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in model.published().items()}
    save_file(state, folder / FILE)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m miniature.fit_ip_adapter", description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "ip_adapter", help="where the file goes")
    parser.add_argument("--work", type=Path, default=Path("runs/miniature"), help="checkpoints, caches, log")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of steps")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    torch.set_flush_denormal(True)
    sdxl = WEIGHTS / "sdxl"
    unet = UNet2DConditionModel.from_pretrained(sdxl / "unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(sdxl / "vae", torch_dtype=torch.float32)
    text = TextStack(
        CLIPTokenizer.from_pretrained(sdxl / "tokenizer"),
        CLIPTextModel.from_pretrained(sdxl / "text_encoder"),
        CLIPTextModelWithProjection.from_pretrained(sdxl / "text_encoder_2"),
    )
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{WEIGHTS / 'clip'}")
    steps = max(1, round(STEPS * chosen.scale))
    write_ip_adapter(fit_ip_adapter(unet, vae, text, clip, chosen.work, steps), chosen.out)


if __name__ == "__main__":
    main()
