"""The ComfyUI nodes, called as ComfyUI calls them: by folder, by name, by what INPUT_TYPES says."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch

from drspo.errors import UserError
from generate.methods.drspo.two_stage import DRSPO
from generate.request import Request

PROMPT = "a lighthouse by the sea at dusk"
STARTER = {"SaveImage": {"images": "IMAGE", "filename_prefix": "STRING"}, "PreviewImage": {"images": "IMAGE"}}


@pytest.fixture(scope="module")
def pack(repository):
    """The folder, loaded from outside any package as ComfyUI loads what lies in custom_nodes."""
    folder = repository / "integrations" / "comfyui"
    name = "custom_nodes_drspo"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for loaded in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[loaded]


@pytest.fixture(scope="module")
def model(pack):
    return call(pack, "DRSPOModel", name="miniature", device="cpu")[0]


def defaults(cls):
    """What ComfyUI fills into the widgets that nobody touches."""
    types_ = cls.INPUT_TYPES()
    both = {**types_["required"], **types_.get("optional", {})}
    return {name: about[1]["default"] for name, about in both.items() if "default" in about[1]}


def call(pack, node, /, **inputs):
    """One node as the server runs it; its outputs are as many as it says."""
    cls = pack.NODE_CLASS_MAPPINGS[node]
    made = getattr(cls(), cls.FUNCTION)(**{**defaults(cls), **inputs})
    assert isinstance(made, tuple) and len(made) == len(cls.RETURN_TYPES) == len(cls.RETURN_NAMES)
    for value, kind in zip(made, cls.RETURN_TYPES):
        if kind == "IMAGE":
            assert value.dtype == torch.float32 and value.ndim == 4 and value.shape[-1] == 3
            assert value.min() >= 0 and value.max() <= 1
    return made


def test_every_node_says_what_comfyui_asks(pack):
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for cls in pack.NODE_CLASS_MAPPINGS.values():
        assert callable(getattr(cls, cls.FUNCTION)) and cls.CATEGORY == "DRSPO" and cls.DESCRIPTION
        for inputs in cls.INPUT_TYPES().values():
            for kind, about in inputs.values():
                assert kind in ("STRING", "INT", "FLOAT", "BOOLEAN", "IMAGE", "DRSPO_MODEL") or "auto" in kind
                assert "min" not in about or about["min"] <= about["default"] <= about["max"]


def test_the_pack_is_loaded_without_loading_a_network(repository):
    import subprocess

    code = (
        "import importlib.util as u, sys\n"
        "s = u.spec_from_file_location('p', 'integrations/comfyui/__init__.py',"
        " submodule_search_locations=['integrations/comfyui'])\n"
        "m = u.module_from_spec(s); sys.modules['p'] = m; s.loader.exec_module(m)\n"
        "[c.INPUT_TYPES() for c in m.NODE_CLASS_MAPPINGS.values()]\n"
        "print('torch' in sys.modules, 'generate' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


def test_a_scroll_is_the_one_that_the_program_makes(pack, model):
    scroll, blueprint, lines = call(pack, "DRSPOScroll", model=model, prompt=PROMPT, steps=4, seed=3)
    spec = model.family.spec
    request = Request(
        prompt=PROMPT, height=128, width=512, seed=3, steps=4, guidance_scale=spec.guidance_scale
    )
    made = DRSPO(model.family, model.config).generate([request])[0]
    assert np.array_equal((scroll[0].numpy() * 255).round(), np.asarray(made.image))
    assert scroll.shape == lines.shape == (1, 128, 512, 3) and blueprint.shape[1:3] == spec.blueprint


def test_a_blueprint_painted_along_is_the_scroll(pack, model):
    asked = {"model": model, "prompt": PROMPT, "steps": 4, "seed": 3}
    whole = call(pack, "DRSPOScroll", **asked)[0]
    (blueprint,) = call(pack, "DRSPOBlueprint", **asked)
    scroll, _ = call(pack, "DRSPOPaintAlong", picture=blueprint, **asked)
    assert torch.equal(scroll, whole)


def test_a_batch_of_pictures_gives_a_batch_of_scrolls(pack, model):
    pictures = torch.stack(
        [torch.zeros(64, 256, 3), torch.linspace(0, 1, 256)[None, :, None].expand(64, 256, 3)]
    )
    scrolls, lines = call(pack, "DRSPOPaintAlong", model=model, picture=pictures, prompt=PROMPT, steps=2)
    assert scrolls.shape == lines.shape == (2, 128, 512, 3)
    assert not torch.equal(scrolls[0], scrolls[1])


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (torch.zeros(1, 64, 250, 3), "aspect ratio"),
        (torch.zeros(1, 64, 256, 4), "alpha"),
        (torch.full((1, 64, 256, 3), float("nan")), "no numbers"),
    ],
)
def test_a_picture_that_would_be_stretched_or_guessed_is_refused(pack, model, picture, said):
    with pytest.raises(UserError, match=said):
        call(pack, "DRSPOPaintAlong", model=model, picture=picture, prompt=PROMPT)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"steps": 0}, "at least one step"),
        ({"guidance_scale": -0.5}, "guidance scale"),
        ({"height": 100}, "100"),
        ({"height": 65536, "width": 65536, "steps": 1}, "GiB are free"),
    ],
)
@pytest.mark.parametrize("node", ["DRSPOScroll", "DRSPOBlueprint", "DRSPOPaintAlong"])
def test_numbers_that_no_scroll_has_are_refused_before_any_work(pack, model, comfy, node, asked, said):
    picture = {"picture": torch.zeros(1, 64, 256, 3)} if node == "DRSPOPaintAlong" else {}
    with pytest.raises(UserError, match=said):
        call(pack, node, model=model, prompt=PROMPT, **picture, **asked)
    assert comfy.total == 0


def test_a_lora_that_was_trained_on_is_seen(pack, tmp_path):
    cls, file = pack.NODE_CLASS_MAPPINGS["DRSPOModel"], tmp_path / "lora.safetensors"
    file.write_bytes(b"one")
    first = cls.IS_CHANGED(**{**defaults(cls), "lora_highres": str(file)})
    file.write_bytes(b"two")
    assert first != cls.IS_CHANGED(**{**defaults(cls), "lora_highres": str(file)})
    with pytest.raises(UserError, match="no LoRA"):
        cls.IS_CHANGED(lora_highres=str(tmp_path / "absent"))


class Stopped(Exception):
    pass


@pytest.fixture
def comfy(monkeypatch):
    """ComfyUI's two modules that a node may ask: its bar and its stop button."""
    state = types.SimpleNamespace(total=0, done=0, stop_at=-1)

    class ProgressBar:
        def __init__(self, total):
            state.total, state.done = total, 0

        def update(self, value):
            state.done += value

    def stop():
        if state.done == state.stop_at:
            raise Stopped

    modules = {
        "comfy": types.ModuleType("comfy"),
        "comfy.utils": types.ModuleType("comfy.utils"),
        "comfy.model_management": types.ModuleType("comfy.model_management"),
    }
    modules["comfy.utils"].ProgressBar = ProgressBar
    modules["comfy.model_management"].throw_exception_if_processing_interrupted = stop
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return state


def test_comfyuis_bar_ends_full_and_its_stop_button_stops(pack, model, comfy):
    for name in ("DRSPOScroll", "DRSPOBlueprint"):
        call(pack, name, model=model, prompt=PROMPT, steps=4)
        assert comfy.total == comfy.done > 0, name
    call(pack, "DRSPOPaintAlong", model=model, picture=torch.zeros(1, 64, 256, 3), prompt=PROMPT, steps=4)
    assert comfy.total == comfy.done > 0
    comfy.stop_at = 2
    with pytest.raises(Stopped):
        call(pack, "DRSPOScroll", model=model, prompt=PROMPT, steps=4)


def test_the_example_for_the_api_runs(pack):
    """A small executor in the place of the server: each node once its inputs are there."""
    flow = json.loads((folder(pack) / "scroll_api.json").read_text())
    made = {}

    def output(key):
        if key not in made:
            node = flow[key]
            inputs = {
                name: output(value[0])[value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            if node["class_type"] in STARTER:
                assert set(inputs) == set(STARTER[node["class_type"]])
                return (inputs["images"],)
            made[key] = call(
                pack, node["class_type"], **{**inputs, **({"steps": 4} if "steps" in inputs else {})}
            )
        return made[key]

    assert output("3")[0].shape == (1, 128, 512, 3)


def test_the_example_for_the_canvas_fits_the_nodes(pack):
    """Links join outputs and inputs of one type, and each node has a value for each of its widgets."""
    flow = json.loads((folder(pack) / "blueprint_then_scroll.json").read_text())
    nodes = {node["id"]: node for node in flow["nodes"]}
    for number, source, slot, target, place, kind in flow["links"]:
        output, entry = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert output["type"] == entry["type"] == kind
        assert number in output["links"] and entry["link"] == number
    for node in flow["nodes"]:
        cls = pack.NODE_CLASS_MAPPINGS.get(node["type"])
        if cls is None:
            assert node["type"] in STARTER
            continue
        assert [o["type"] for o in node["outputs"]] == list(cls.RETURN_TYPES)
        asked = cls.INPUT_TYPES()
        both = {**asked["required"], **asked.get("optional", {})}
        sockets = [name for name, about in both.items() if about[0] in ("IMAGE", "DRSPO_MODEL")]
        assert [i["name"] for i in node["inputs"]] == sockets
        # A seed has a second widget: what becomes of it after each run.
        widgets = sum(1 + ("control_after_generate" in both[n][1]) for n in both if n not in sockets)
        assert len(node["widgets_values"]) == widgets


def folder(pack):
    from pathlib import Path

    return Path(pack.__file__).parent / "example_workflows"
