"""What the page on generation shows of transformers and Real-ESRGAN runs, or at least is accepted."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from drspo.config import load
from eval.benchmark.suite import check_sizes
from eval.config import EvalConfig
from generate.program.command import main
from generate.program.metadata import read
from tests.test_commands import shown_commands

SECTIONS = ("## Transformers", "## Real-ESRGAN")


def _shown(repository) -> list[list[str]]:
    page = (repository / "docs" / "generate.md").read_text()
    sections = [page.split(title, 1)[1].split("\n## ", 1)[0] for title in SECTIONS]
    commands = [command for section in sections for command in shown_commands(section)]
    return [command[3:] for command in commands if command[:3] == ["python", "-m", "generate"]]


def test_the_shown_commands_are_accepted(repository, capsys):
    shown = _shown(repository)
    assert len(shown) == 6
    for arguments in shown:
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--print-config"])
        assert caught.value.code == 0, (arguments, capsys.readouterr().err)


@pytest.mark.parametrize("number", [0, 5])
def test_the_shown_commands_that_need_no_download_paint(repository, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    arguments = _shown(repository)[number]
    assert main([*arguments, "--steps", "2"]) == 0
    record = read(tmp_path / "castle.png")
    assert record.method == "direct" and (record.request.height, record.request.width) == (128, 512)
    assert record.options.get("upscale", 1) == (2 if number else 1)


def test_the_shipped_transformer_opens_as_its_readme_says():
    import miniature

    folder = f"{miniature.__path__[0]}/weights/sd3"
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    assert pipe.transformer.dtype == torch.float32
    assert sum(value.numel() for value in pipe.transformer.parameters()) == pytest.approx(3.49e6, rel=0.01)
    assert pipe.default_sample_size * pipe.vae_scale_factor == 128


@pytest.mark.parametrize("preset", ["table1", "miniature-study"])
def test_every_row_of_the_tables_asks_for_a_size_that_its_model_can_paint(preset):
    arguments = ["--config", preset, "--lora-blueprint", "a", "--lora-highres", "b"]
    check_sizes(load(EvalConfig, arguments, package="eval", prog="eval", description=""))
