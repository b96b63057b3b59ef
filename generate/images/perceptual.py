"""How far apart pictures look, with gradient: LPIPS (Zhang et al. 2018), or a network in a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from drspo.errors import UserError, did_you_mean
from drspo.files.texts import read_json
from drspo.registry import package_folder, resolve

NETS = {
    "vgg": ("vgg16", "vgg16-397923af.pth"),
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth"),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
}
"""LPIPS's networks: torchvision's name of each, and of the file with its weights."""
FOLDERS = {"PerceptualNet": "miniature.perceptual:load_perceptual"}
"""What a folder's config.json calls its network, and what loads it."""
TINY = 1e-20


class Perceptual(Protocol):
    """(pictures [n, 3, H, W] in -1..1, others of the same shape, or one for all) -> distances [n]."""

    def __call__(self, pictures: Tensor, others: Tensor) -> Tensor: ...


class Lpips(nn.Module):
    """LPIPS's distance (its eq. 1) by the networks of the `lpips` package, with a gradient everywhere.

    The package's own divides by the root of a sum of squares, whose gradient is not a number where a whole
    column of features is zero.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        """Distances [n]."""
        network = self.network
        ours, theirs = (network.net(network.scaling_layer(each)) for each in (pictures, others))
        layers = [
            layer((_unit(a) - _unit(b)).square()).mean(dim=(1, 2, 3))
            for layer, a, b in zip(network.lins, ours, theirs, strict=True)
        ]
        return torch.stack(layers).sum(0)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + TINY).sqrt()


def locate_perceptual(source: str, weights: str = "") -> Path:
    """The file or folder of a distance's weights; UserError where there is none.

    `source` is vgg, alex or squeeze, whose backbone is looked for where torchvision keeps its files, or in
    the file `weights`; or it is a folder, or one inside a package, `package:NAME/FOLDER`.
    """
    if source in NETS:
        return _backbone(source, weights)
    if weights:
        raise UserError(
            f"{source} has weights of its own", "net_weights", "They belong to vgg, alex, squeeze."
        )
    folder = package_folder(source) if source.startswith("package:") else Path(source).expanduser()
    if not (folder / "config.json").is_file():
        hint = did_you_mean(source, NETS) if "/" not in source else "A folder with a config.json is meant."
        raise UserError(f"there is no perceptual network at {source}", where="net", hint=hint)
    name = _kind(folder)
    if name not in FOLDERS:
        raise UserError(f"{folder} holds a {name}", "net", f"Known are {', '.join(FOLDERS)}.")
    return folder


def load_perceptual(source: str, device: torch.device, weights: str = "") -> nn.Module:
    """A frozen `Perceptual` in float32; UserError as `locate_perceptual` and for weights of another network.

    Nothing is downloaded, and nothing in a file is run.
    """
    place = locate_perceptual(source, weights)
    network: nn.Module
    try:
        network = _lpips(source, place) if source in NETS else resolve(FOLDERS[_kind(place)])(place)
    except UserError:
        raise
    except Exception as error:  # of every kind: pickle's, zip's, safetensors', a missing key's
        said = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise UserError(f"the perceptual network cannot be read: {said}", str(place)) from error
    return network.float().to(device).eval().requires_grad_(False)


def _kind(folder: Path) -> str:
    settings = read_json(folder / "config.json")
    return str(settings.get("_class_name")) if isinstance(settings, dict) else type(settings).__name__


def _backbone(net: str, weights: str) -> Path:
    name, file = NETS[net]
    path = Path(weights).expanduser() if weights else Path(torch.hub.get_dir()) / "checkpoints" / file
    if path.is_file() and path.suffix in (".pth", ".safetensors"):
        return path
    if weights:
        raise UserError(f"there is no .pth or .safetensors file at {weights}", where="net_weights")
    raise UserError(
        f"LPIPS with {net} needs torchvision's weights of {name}, and there is no {path}",
        hint="Where the network can be reached, this puts the file there:\n"
        f"  python -c \"from torchvision.models import {name}; {name}(weights='DEFAULT')\"\n"
        "Or give a file by net_weights, or a folder by net.",
    )


def _lpips(net: str, file: Path) -> Lpips:
    """LPIPS's network with a backbone from a file of torchvision's, or from one of a whole LPIPS."""
    import lpips
    from safetensors.torch import load_file

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torchvision's, about how the package calls it
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    if file.suffix == ".safetensors":
        state = load_file(file)
    else:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    backbone = network.net.state_dict()
    plain = {key: "features." + key.partition(".")[2] for key in backbone}
    whole = any(key.startswith("net.") for key in state)
    found = {key: f"net.{key}" for key in backbone} if whole else plain
    if missing := [name for name in found.values() if name not in state]:
        raise UserError(f"{file.name} is no {NETS[net][0]}: it lacks {missing[0]}", where=str(file))
    network.net.load_state_dict({key: state[name] for key, name in found.items()})
    return Lpips(network)
