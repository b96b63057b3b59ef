"""The names of SDXL's layers in its original implementation, which kohya and ComfyUI follow."""

from __future__ import annotations

from typing import Any

from drspo.errors import UserError

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def original_name(module: str, config: Any) -> str:
    """The original name of a module of a diffusers UNet; other families than SDXL keep diffusers' names.

    An input block of the original holds one resnet (part 0) and its attention (part 1), and input block 0 is
    the first convolution; output blocks hold layers_per_block + 1 of them per level. A level's change of size
    is a block of its own on the way down, and the last part of the level's last block on the way up.
    UserError for a layer that the original does not have.
    """
    if config.addition_embed_type != "text_time":
        return module
    if module in OUTSIDE:
        return OUTSIDE[module]
    parts, layers = module.split("."), config.layers_per_block
    if parts[0] == "mid_block":
        return _middle(module, parts)
    if parts[0] not in ("down_blocks", "up_blocks"):
        raise _unknown(module)
    level, kind, index = int(parts[1]), parts[2], int(parts[3])
    down = parts[0] == "down_blocks"
    block = f"input_blocks.{level * (layers + 1) + index + 1}" if down else ""
    block = block or f"output_blocks.{level * (layers + 1) + index}"
    if kind == "attentions":
        return f"{block}.1." + ".".join(parts[4:])
    if kind == "resnets":
        return f"{block}.0." + _resnet(module, parts[4:])
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
    if kind == "upsamplers":
        attends = "CrossAttn" in config.up_block_types[level]
        return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends else 1}.conv"
    raise _unknown(module)


def _middle(module: str, parts: list[str]) -> str:
    if parts[1] == "attentions":
        return ".".join(["middle_block", "1", *parts[3:]])
    return f"middle_block.{2 * int(parts[2])}." + _resnet(module, parts[3:])


def _resnet(module: str, parts: list[str]) -> str:
    if len(parts) != 1 or parts[0] not in RESNET:
        raise _unknown(module)
    return RESNET[parts[0]]


def _unknown(module: str) -> UserError:
    return UserError(
        f"{module!r} has no name in the original SDXL", "--lora.targets", "leave it out, or --no-kohya"
    )
