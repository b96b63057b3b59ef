"""Bad input of the command is one sentence with exit code 2, before any weights are read."""

import re

import pytest

from drspo.cli import execute

LOADING = "generate.models.family.load_networks"


def run(*argv) -> int:
    return execute("generate.program.command:main", [str(a) for a in argv])


BAD = {
    "no prompt": ([], "nothing to make"),
    "an empty prompt": (["  "], "nothing to make"),
    "a prompt twice": (["a", "a"], "twice"),
    "height": (["a", "--height", "130"], "multiple of 8"),
    "no steps": (["a", "--steps", "0"], "at least one step"),
    "a stride of zero": (["a", "--drspo.windows.stride", "0"], "stride of 0 pixels"),
    "a negative stride": (["a", "--drspo.windows.stride", "-32"], "stride of -32 pixels"),
    "a window beyond the canvas": (
        ["a", "--method", "mad", "--mad.window", "256"],
        "larger than the canvas of 128x512",
    ),
    "scheduler": (["a", "--drspo.windows.scheduler", "eulr"], "Did you mean 'euler'"),
    "a scheduler that draws noise": (["a", "--drspo.windows.scheduler", "ddpm"], "draws noise"),
    "method": (["a", "--method", "mulidiffusion"], "Did you mean 'multidiffusion'"),
    "settings of another method": (["a", "--method", "mad", "--drspo.strength", "0.5"], "method is mad"),
    "an adapter that nothing is shown through": (
        ["a", "--ip-adapter", "x.safetensors"],
        "no window is shown a picture",
    ),
    "an adapter that is not there": (
        ["a", "--drspo.image-prompt.enabled", "--ip-adapter", "gone.safetensors"],
        "no IP-Adapter at gone.safetensors",
    ),
    "scale of a picture": (
        ["a", "--drspo.image-prompt.enabled", "--drspo.image-prompt.scale", "-2"],
        "image.prompt.scale",
    ),
    "jpeg": (["a", "--out", "x.jpg"], ".png or .webp"),
    "many in one file": (["a", "b", "--out", "x.png"], "FOLDER"),
    "no prompt file": (["--prompts", "gone.txt"], "gone.txt"),
    "no like": (["--like", "gone.png"], "gone.png"),
    "like and prompt": (["a", "--like", "gone.png"], "leave prompts out"),
    "no model": (["a", "--model", "./gone"], "gone"),
    "no lora": (["a", "--lora-highres", "gone"], "no LoRA at gone"),
    "stage of a one-stage method": (["a", "--method", "mad", "--lora-highres", "gone"], "one stage"),
    "device": (["a", "--device", "cuda:7"], "cuda|CUDA"),
    "guidance": (["a", "--guidance-scale", "nan"], "guidance_scale is nan"),
    "endless guidance": (["a", "--guidance-scale", "inf"], "guidance_scale is inf"),
    "negative guidance": (["a", "--guidance-scale", "-2"], "from 0 on"),
    "guidance of the blueprint": (["a", "--drspo.blueprint.guidance-scale", "-2"], "from 0 on"),
    "rescaling": (["a", "--guidance-rescale", "1.5"], "guidance_rescale lies"),
    "strength": (["a", "--drspo.strength", "nan"], "strength is nan"),
    "strength of zero": (["a", "--drspo.strength", "0"], "strength must be"),
    "scale of control": (["a", "--drspo.control.scale", "-2"], "control.scale is a number"),
    "start of control": (["a", "--drspo.control.start", "1.5"], "0 <= start < end"),
    "blur": (["a", "--drspo.control.lines.blur", "900"], "control.lines.blur"),
    "weight of a lora": (["a", "--lora-weight", "nan"], "lora_weight is nan"),
    "seed": (["a", "--seed", str(2**64)], "below 2\\^63"),
    "options of a built-in method": (["a", "--options", "drspo.strength=1"], "flags of its own"),
    "options of something else": (
        ["a", "--method", "tests.test_generate_plugin:Calm", "--options", "other.calm=1"],
        "sets an option of .other., which this run does not use",
    ),
    "an unknown option": (
        ["a", "--method", "tests.test_generate_plugin:Calm", "--options", "calm.clam=1"],
        "Did you mean 'calm'",
    ),
    "no generator": (["a", "--method", "drspo.errors:UserError"], "derives from generate.request.Generator"),
    "revision of a package": (["a", "--revision", "v1"], "has no revisions"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_plainly_with_exit_code_two_before_any_weights_are_read(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "generate.models.family.load_networks", lambda *a: pytest.fail("the model was loaded")
    )
    monkeypatch.chdir(tmp_path)
    argv, message = BAD[name]
    assert run(*argv) == 2
    said = capsys.readouterr().err
    assert re.search(f"{message}|It takes a number", said)
    assert "Traceback" not in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
