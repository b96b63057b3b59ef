"""Every setting of the command `python -m generate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from drspo.errors import UserError
from drspo.options import check_options, options_of
from drspo.ranges import Finite, OwnScale, OwnSide, OwnSteps, Range, Seed, Share
from generate import GENERATORS
from generate.methods import (
    direct,
    elasticdiffusion,
    gvcf,
    mad,
    multidiffusion,
    sdxl,
    spotdiffusion,
    syncdiffusion,
    twindiffusion,
)
from generate.methods.drspo import two_stage
from generate.request import OWN


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to make, with what, and where to put it."""

    prompt: Positional[tuple[str, ...]] = ()
    """one or more prompts"""
    prompts: str = ""
    """a text file with one prompt a line"""
    negative_prompt: str = ""
    """what the scroll should not show"""
    along: str = ""
    """instead of a prompt what holds where, "pine forest: 0-0.4; harbour | people: 0.4-1" (what stands after
    | is unwanted there), or a YAML file with a list of prompt, negative_prompt, from and to"""
    model: str = "miniature"
    """a name (miniature, sdxl, flux, ...), a Hub id (owner/name or owner/name@revision), or a folder in
    diffusers' layout"""
    revision: str = ""
    """a branch, tag or commit of the model's repository on the Hub"""
    method: str = "drspo"
    """one of --list, or a plugin module:Class"""
    options: tuple[str, ...] = ()
    """settings of a plugin as name.key=value, for example my_method.strength=0.5"""
    height: OwnSide = OWN
    """of the scroll in pixels; -1: the model's own"""
    width: OwnSide = OWN
    """of the scroll in pixels; -1: the model's own"""
    steps: OwnSteps = OWN
    """denoising steps; -1: the model's own"""
    guidance_scale: OwnScale = OWN
    """of classifier-free guidance; -1: the model's own"""
    guidance_rescale: Share = 0.0
    """brings strong guidance back to the unguided contrast, 0 to 1 (Lin et al. 2023, section 3.4)"""
    seed: Seed = 0
    """decides the noise"""
    seeds: tuple[Seed, ...] = ()
    """several seeds instead of one: every prompt with every seed"""
    out: str = "scroll.png"
    """a .png or .webp file, or a folder (also s3:// and the like) that can be resumed"""
    format: Literal["", "png", "webp"] = ""
    """of files in a folder, both lossless; default png"""
    overwrite: bool = False
    """replace files that were made with other settings"""
    like: str = ""
    """make a scroll again, byte for byte, from the record inside its file; excludes prompts"""
    list: bool = False
    """print every method with its cost, its authors' licence and where it was verified, and exit"""
    plan: bool = False
    """print evaluations, seconds and memory, and exit"""
    save_steps: bool = False
    """also write an animated GIF of the denoising"""
    save_extras: bool = False
    """also write the blueprint and the line art"""
    blueprint: str = ""
    """a picture to paint along in the place of drspo's blueprint, of the scroll's aspect ratio"""
    blueprints: Annotated[int, Range(0, 64)] = 0
    """draw so many blueprints, judge them, show them on one sheet beside the scroll, and paint one"""
    blueprint_choice: str = "best"
    """which one to paint: best, a number, or later to see the sheet first"""
    blueprint_judges: tuple[str, ...] = ()
    """measures that judge blueprints, the first one decides; none: those that go with the model"""
    controlnet: str = ""
    """a Hub id or folder of a canny ControlNet, instead of the model's own"""
    controlnet_conditioning: str = ""
    """what that ControlNet was trained to be shown, where its name does not say so: canny"""
    ip_adapter: str = ""
    """an IP-Adapter's .safetensors file, or owner/name:folder/file.safetensors, instead of the model's own"""
    image_encoder: str = ""
    """the folder of that adapter's image tower, where it does not lie beside it"""
    upscale: Literal[1, 2, 4] = 1
    """make the scroll that many times smaller and enlarge it by Real-ESRGAN"""
    upscaler: str = ""
    """a .safetensors or .pth file of Real-ESRGAN's weights, instead of the model's own"""
    lora: str = ""
    """a LoRA folder or file: its drspo.json says which stage it is for; without one, for every stage"""
    lora_blueprint: str = ""
    """the LoRA of the blueprint stage"""
    lora_highres: str = ""
    """the LoRA of the high-resolution stage"""
    lora_weight: Finite = 1.0
    """how strongly LoRAs act; 0 switches them off"""
    other_base: bool = False
    """allow a LoRA that was trained on another base model"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    offload: bool = False
    """keep networks in host memory while they rest: slower, and a device holds larger models"""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16; the autoencoder stays in float32 where half precision overflows"""
    direct: direct.Config = field(default_factory=direct.Config)
    """settings of the method direct"""
    sdxl: sdxl.Config = field(default_factory=sdxl.Config)
    """settings of the method sdxl, an older name of direct"""
    multidiffusion: multidiffusion.Config = field(default_factory=multidiffusion.Config)
    """settings of the method multidiffusion"""
    mad: mad.Config = field(default_factory=mad.Config)
    """settings of the method mad"""
    spotdiffusion: spotdiffusion.Config = field(default_factory=spotdiffusion.Config)
    """settings of the method spotdiffusion"""
    twindiffusion: twindiffusion.Config = field(default_factory=twindiffusion.Config)
    """settings of the method twindiffusion"""
    gvcf: gvcf.Config = field(default_factory=gvcf.Config)
    """settings of the method gvcf"""
    elasticdiffusion: elasticdiffusion.Config = field(default_factory=elasticdiffusion.Config)
    """settings of the method elasticdiffusion"""
    syncdiffusion: syncdiffusion.Config = field(default_factory=syncdiffusion.Config)
    """settings of the method syncdiffusion"""
    drspo: two_stage.Config = field(default_factory=two_stage.Config)
    """settings of the method drspo"""


def plugin_settings(options: tuple[str, ...], method: str, name: str) -> dict[str, Any]:
    """The settings of a plugin from name.key=value entries, values as YAML has them; a.b.c=1 is nested.

    `method` is how the plugin was asked for and `name` what it calls itself: either may stand before the key.
    UserError for entries of something else, which would change nothing.
    """
    if options and method in GENERATORS:
        raise UserError(f"{method} has flags of its own", "--options", f"Give them by --{method}.…")
    check_options(options, (method, name), "--options")
    return options_of(options, method, name, where="--options")
