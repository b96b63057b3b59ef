"""The command as its users run it: files, resuming, making again, refusing."""

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from drspo.cli import execute
from drspo.config import to_dict
from drspo.errors import UserError
from generate import GENERATORS
from generate.program.jobs import file_name, read_prompts, split_out
from generate.program.metadata import read
from generate.program.session import Setup, open_session
from generate.request import Request, build_generator
from tests.tiny_models import make_controlnet


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    base = golden / "models" / "tiny-sdxl"
    control = make_controlnet(base, tmp_path_factory.mktemp("controlnet"))
    return [
        "--model", str(base), "--controlnet", str(control), "--height", "128", "--width", "256",
        "--steps", "2",
        "--drspo.windows.window", "128", "--drspo.windows.stride", "64",
        "--drspo.blueprint.height", "64", "--drspo.blueprint.width", "128",
        "--controlnet-conditioning", "canny",
    ]  # fmt: skip


def run(*argv) -> int:
    return execute("generate.program.command:main", [str(a) for a in argv])


@pytest.fixture(scope="module")
def scroll(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("scroll") / "scroll.png"
    assert run("a castle at dusk", *model, "--seed", 4, "--out", path, "--save-extras", "--save-steps") == 0
    return path


def test_a_scroll_says_how_it_was_made(scroll, model):
    record = read(scroll)
    assert Image.open(scroll).size == (256, 128)
    assert record.request == Request(prompt="a castle at dusk", height=128, width=256, seed=4, steps=2)
    assert record.method == "drspo" and record.model == "tiny-sdxl"
    assert len(record.fingerprint) == 12
    assert record.settings["windows"]["stride"] == 64
    assert record.options["dtype"] == "float32"
    assert len(record.options["controlnet_fingerprint"]) == 12
    text = json.dumps(record.to_dict())
    assert "/" not in text, "neither where it was put nor where the weights lie"


def leaves(values):
    return [x for v in values.values() for x in (leaves(v) if isinstance(v, dict) else [v])]


@pytest.mark.parametrize("method", sorted(GENERATORS))
def test_a_record_has_numbers_where_the_models_own_were_taken(method):
    session = open_session(Setup(model="miniature", method=method))
    request = Request(prompt="a pine", height=128, width=512, steps=7)
    found = session.record(request).settings
    assert -1 not in leaves(found)
    again = build_generator(method, session.family, found)
    assert to_dict(again.config) == to_dict(again.resolved(request)) == found


def test_extras_and_the_denoising_lie_beside_the_scroll(scroll):
    folder = scroll.parent
    assert sorted(p.name for p in folder.iterdir()) == [
        "scroll.blueprint.png", "scroll.lines.png", "scroll.png", "scroll.steps.gif",
    ]  # fmt: skip
    assert Image.open(folder / "scroll.blueprint.png").size == (128, 64)
    gif = Image.open(folder / "scroll.steps.gif")
    assert (gif.size, gif.n_frames) == ((256, 128), 3)  # 2 of the blueprint, 1 of the windows


@pytest.mark.slow
def test_another_process_makes_the_same_bytes_from_the_file_and_where_its_weights_lie(
    scroll, model, tmp_path
):
    again = tmp_path / "again.png"
    moved = tmp_path / "the weights under another name"
    shutil.copytree(model[1], moved)
    command = [sys.executable, "-m", "generate", "--like", str(scroll), "--out", str(again)]
    command += ["--model", str(moved), *model[2:4]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == scroll.read_bytes()
    assert "evaluations" in done.stdout


@pytest.mark.slow
def test_a_scroll_of_a_model_of_ours_is_made_again_from_the_file_alone(tmp_path):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    assert run("a pine", "--steps", 2, "--drspo.strength", 0.5, "--out", one) == 0
    assert run("--like", one, "--out", two) == 0
    assert one.read_bytes() == two.read_bytes()


def test_like_asks_for_what_a_record_only_names(scroll, model, tmp_path, capsys):
    again = ["--like", scroll, "--out", tmp_path / "again.png"]
    assert run(*again) == 2
    assert "--model PATH" in capsys.readouterr().err
    assert run(*again, *model[:2]) == 2
    assert "--controlnet PATH" in capsys.readouterr().err


def test_like_refuses_other_weights_under_the_same_name(scroll, model, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    for place, argument in ((tmp_path / "tiny-sdxl" / "unet", 1), (tmp_path / "control", 3)):
        copied = place.parent if argument == 1 else place
        shutil.copytree(model[argument], copied)
        weights = place / "diffusion_pytorch_model.safetensors"
        save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
        given = [*model[:4]]
        given[argument] = str(copied)
        assert run("--like", scroll, "--out", tmp_path / "again.png", *given) == 2
        assert "not those that made the scroll" in capsys.readouterr().err


def test_like_makes_the_same_bytes_as_webp_too(model, tmp_path):
    first, second = tmp_path / "one.webp", tmp_path / "two.webp"
    settings = ["--method", "multidiffusion", "--multidiffusion.window", 128, "--multidiffusion.stride", 64]
    assert run("a pine", *model[:2], *model[4:10], *settings, "--out", first) == 0
    assert run("--like", first, *model[:2], "--out", second) == 0
    assert first.read_bytes() == second.read_bytes()


def test_a_folder_is_resumed_and_other_settings_are_refused(model, tmp_path, capsys, caplog):
    out = tmp_path / "scrolls"
    (tmp_path / "prompts.txt").write_text("# two\na castle\n\n  a pine  \n")
    asked = [
        "--prompts",
        tmp_path / "prompts.txt",
        *model[:2],
        *model[4:10],
        "--method",
        "sdxl",
        "--seeds",
        0,
        1,
    ]
    assert run(*asked, "--out", f"{out}/") == 0
    files = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    assert len(files) == 4
    gone = sorted(files)[2]
    (out / gone).unlink()
    assert run(*asked, "--out", f"{out}/") == 0
    again = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    assert {n: data for n, (_, data) in again.items()} == {n: data for n, (_, data) in files.items()}
    assert [n for n in files if again[n][0] != files[n][0]] == [gone]
    assert "kept 3 of 4" in caplog.text
    capsys.readouterr()
    assert run(*asked, "--steps", 3, "--out", f"{out}/") == 2
    assert "request.steps: 2 -> 3" in capsys.readouterr().err
    assert run(*asked[:-1], "--steps", 1, "--out", f"{out}/", "--overwrite") == 0


def test_the_plan_prints_counts_seconds_and_memory_and_writes_nothing(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("a castle", "a pine", *model, "--plan", "--out", "x/") == 0
    text = capsys.readouterr().out
    assert "unet: 10 evaluations per scroll (4 at 8x16 latents, 6 at 16x16 latents)" in text
    assert "controlnet: 6 evaluations" in text
    assert "s for 2" in text and "GiB" in text
    assert list(tmp_path.iterdir()) == []


def test_one_file_per_prompt_and_seed_and_no_two_alike():
    names = {
        file_name(Request(prompt=p, negative_prompt=n, height=8, width=8, seed=s), ".png")
        for p in ("a castle", "A castle!", "城", "x" * 300)
        for n in ("", "fog")
        for s in (0, 1)
    }
    assert len(names) == 16
    assert all(len(name) < 80 and name.isascii() and "/" not in name for name in names)


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("scroll.png", (".", "scroll.png")),
        ("a/b.webp", ("a", "b.webp")),
        ("/b.png", ("/", "b.png")),
        ("scrolls/", ("scrolls", "")),
        ("scrolls", ("scrolls", "")),
        ("s3://bucket/x/", ("s3://bucket/x", "")),
    ],
)
def test_out_is_a_file_or_a_folder(out, expected):
    assert split_out(out, 1, "") == expected


def test_bad_input_that_needs_the_model_is_found_before_sampling(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("generate.program.command._run", lambda *a: pytest.fail("sampling began"))
    monkeypatch.chdir(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    for argv, message in (
        (["castle " * 90], "77 tokens"),
        (["a", "--drspo.windows.window", "1024"], "larger than the canvas"),
        (["a", "--drspo.windows.scheduler", "eulr"], "Did you mean 'euler'"),
        (["a", "--out", blocked / "x.png"], "file"),
    ):
        assert run(argv[0], *model, *argv[1:]) == 2
        assert message in capsys.readouterr().err


def test_a_lora_of_another_base_is_refused_by_name(model, tmp_path, capsys):
    import torch
    from safetensors.torch import save_file

    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_A.weight": torch.zeros(2, 16), f"{layer}.lora_B.weight": torch.zeros(16, 2)}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    facts = {"stage": "highres", "base_model": "other/model", "base_fingerprint": "0123456789ab"}
    (tmp_path / "drspo.json").write_text(json.dumps(facts))
    assert run("a", *model, "--lora", tmp_path, "--out", tmp_path / "x.png") == 2
    assert "other/model" in capsys.readouterr().err
    assert run("a", *model, "--lora", tmp_path, "--other-base", "--out", tmp_path / "x.png") == 0
    loras = read(tmp_path / "x.png").loras
    assert set(loras) == {"highres"} and len(loras["highres"]["sha256"]) == 64
    capsys.readouterr()
    save_file({k: v + 1 for k, v in tensors.items()}, tmp_path / "pytorch_lora_weights.safetensors")
    again = ["--like", tmp_path / "x.png", *model[:4], "--out", tmp_path / "y.png"]
    assert run(*again) == 2
    assert "--lora-highres PATH" in capsys.readouterr().err
    assert run(*again, "--lora-highres", tmp_path) == 2
    assert "not the one that made the scroll" in capsys.readouterr().err


def test_prompt_files_are_read_line_by_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("# comment\n\n a \nb # not a comment\n")
    assert read_prompts(path) == ["a", "b # not a comment"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError):
        read_prompts(path)
    path.write_text("# nothing\n")
    with pytest.raises(UserError, match="no prompt"):
        read_prompts(path)
