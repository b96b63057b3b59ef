"""Real-ESRGAN behind a scroll: the same numbers in strips, from safe files, recorded."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from drspo.errors import UserError
from generate.images.upscale import enlarge_pixels, load_upscaler
from generate.program.command import main
from generate.program.metadata import read
from miniature.fit_upscaler import build_upscaler, official

CPU = torch.device("cpu")


def _network(shuffle):
    torch.manual_seed(1)
    return build_upscaler(filters=8, blocks=2, shuffle=shuffle).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights in the official layout: by the network's own scale, the file."""
    folder = tmp_path_factory.mktemp("upscalers")
    made = {2: folder / "x2plus.safetensors", 4: folder / "x4plus.pth"}
    save_file(official(_network(2).state_dict()), made[2])
    torch.save({"params_ema": official(_network(None).state_dict())}, made[4])
    return made


def _picture(height=21, width=75):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("shuffle", [2, None])
@pytest.mark.parametrize("strip", [1, 16, 22, 0])
def test_strips_give_what_the_whole_network_gives(shuffle, strip):
    network = _network(shuffle)
    pixels = torch.rand(1, 3, 13, 75, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = network(pixels)
    ours = enlarge_pixels(network, pixels, strip=strip)
    assert ours.shape == whole.shape
    assert float((ours - whole).abs().max()) < 1e-5 * max(1.0, float(whole.abs().max()))


def test_a_file_of_the_official_layout_is_the_network_it_was_saved_from(files):
    for scale, shuffle in ((2, 2), (4, None)):
        found = load_upscaler(str(files[scale]), scale, CPU)
        assert found.scale == scale
        ours, saved = found.network.state_dict(), _network(shuffle).state_dict()
        assert ours.keys() == saved.keys() and all(torch.equal(ours[key], saved[key]) for key in saved)


def test_two_can_be_had_from_either_network_and_the_facts_say_which(files):
    picture = _picture()
    by_two, by_four = (load_upscaler(str(files[own]), 2, CPU) for own in (2, 4))
    assert by_two.enlarge(picture, 2).size == by_four.enlarge(picture, 2).size == (150, 42)
    assert by_two.facts(2)["upscaler_network"] == "x2"
    assert by_four.facts(2)["upscaler_network"] == "x4, then 2/4 by Lanczos"
    assert by_two.sha256 != by_four.sha256
    assert load_upscaler(str(files[4]), 4, CPU).enlarge(picture, 4).size == (300, 84)


def test_what_is_no_upscaler_is_refused_in_words(files, tmp_path):
    (tmp_path / "text.pth").write_bytes(b"not weights")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.save({"params": {"a": 3}}, tmp_path / "numbers.pth")
    (tmp_path / "net.onnx").write_bytes(b"")
    refused = {
        tmp_path / "none.pth": "no upscaler at",
        tmp_path / "text.pth": "cannot be read as weights",
        tmp_path / "other.safetensors": "no network that is known",
        tmp_path / "numbers.pth": "no table of weights",
        tmp_path / "net.onnx": "neither .safetensors nor .pth",
    }
    for path, said in refused.items():
        with pytest.raises(UserError, match=said):
            load_upscaler(str(path), 2, CPU)
    with pytest.raises(UserError, match="enlarges by 2, and 4 is asked for"):
        load_upscaler(str(files[2]), 4, CPU)


class _Runs:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_inside_a_pickle_is_run(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"params_ema": _Runs()}))
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_upscaler(str(tmp_path / "evil.pth"), 2, CPU)
    assert "run" not in capsys.readouterr().out


def _run(*arguments):
    return main([str(argument) for argument in arguments])


def test_a_scroll_is_made_small_enlarged_recorded_and_made_again(files, golden, tmp_path):
    model = golden / "models" / "tiny-sdxl"
    how = ["--model", model, "--method", "direct", "--height", 128, "--width", 256, "--steps", 2]
    asked = ["--upscale", 2, "--upscaler", files[4], "--save-extras"]
    assert _run("a pine", *how, *asked, "--out", tmp_path / "a.png") == 0
    with Image.open(tmp_path / "a.png") as large, Image.open(tmp_path / "a.small.png") as small:
        assert large.size == (256, 128) and small.size == (128, 64)
        again = load_upscaler(str(files[4]), 2, CPU).enlarge(small, 2)
        assert large.tobytes() == again.tobytes()
    options = read(tmp_path / "a.png").options
    assert options["upscale"] == 2 and options["upscaler_network"] == "x4, then 2/4 by Lanczos"
    assert options["upscaler"] == "x4plus.pth"
    like = ["--like", tmp_path / "a.png", "--model", model, "--out", tmp_path / "b.png"]
    with pytest.raises(UserError, match="an upscaler called x4plus.pth"):
        _run(*like)
    with pytest.raises(UserError, match="weights of this upscaler"):
        _run(*like, "--upscaler", files[2])
    assert _run(*like, "--upscaler", files[4]) == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--upscale", 2], "no upscaler of its own"),
        (["--upscaler", "x.pth"], "nothing is enlarged"),
        (["--upscale", 4, "--height", 130], "cannot be made 4 times smaller"),
    ],
)
def test_an_enlargement_that_cannot_be_is_said_first(golden, options, said):
    with pytest.raises(UserError, match=said):
        _run("a", "--model", golden / "models" / "tiny-sdxl", "--drspo.control.no-enabled", *options)
