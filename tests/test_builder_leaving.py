"""A maker's account, machine, folders, servers and keys are planted; every byte that leaves is searched."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_builder.hub.publish import main as publish
from dataset_builder.report.view import write as view
from drspo.errors import UserError
from drspo.llm.ask import LLMSettings
from tests.building import FAKES, IDEAS, build, fake_config, with_candidates

MARKS = ("mrkuser", "mrkplace", "mrkhost", "mrkserver", "mrkbucket", "mrkkey")
KEY = "sk-mrkkey-0123456789abcdef"
POISON = "windmill"
ERROR = f"mrkuser at mrkserver.internal:80 could not open /srv/mrkplace/x.pt with {KEY}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose name is a mark, in an environment whose names are marks."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("USER", "LOGNAME"):
            patch.setenv(variable, "mrkuser")
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setattr("socket.gethostname", lambda: "mrkhost")
        folder = tmp_path_factory.mktemp("mrkplace")
        patch.setenv("HOME", str(folder / "mrkuser"))
        yield folder


def search(data: bytes, where: str) -> None:
    """AssertionError when a mark is in the bytes, or in what they pack: pictures' texts and EXIF, shards'
    columns and metadata, pictures inside a page."""
    found = [mark for mark in MARKS if mark.encode() in data.lower()]
    assert not found, (
        where,
        found,
        [data[max(0, (i := data.lower().find(m.encode())) - 80) : i + 40] for m in found],
    )
    if data.startswith((b"\x89PNG", b"RIFF", b"GIF8", b"\xff\xd8")):
        with Image.open(io.BytesIO(data)) as image:
            search(repr([sorted(image.info.items()), dict(image.getexif())]).encode(), f"{where}: its texts")
    if data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        search(repr(table.schema.metadata).encode(), f"{where}: its metadata")
        for row in table.to_pylist():
            pictures = [value for value in row.values() if isinstance(value, dict) and value.get("bytes")]
            search(repr({k: v for k, v in row.items() if v not in pictures}).encode(), f"{where}: a row")
            for picture in pictures:
                search(repr(picture["path"]).encode(), f"{where}: a picture's name")
                search(picture["bytes"], f"{where}: a picture")
    for packed in re.findall(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)", data):
        search(base64.b64decode(packed), f"{where}: a picture in the page")


def search_folder(folder: Path) -> int:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        search(path.relative_to(folder).as_posix().encode(), "a name")
        search(path.read_bytes(), path.name)
    return len(files)


def test_the_search_finds_a_mark_wherever_it_is_packed(tmp_path):
    import pyarrow as pa

    exif = Image.Exif()
    exif[0x010E] = "mrkuser"
    webp, parquet = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(webp, "WEBP", exif=exif)
    pq.write_table(pa.table({"prompt": ["mrkhost " * 50]}), parquet, compression="zstd")
    page = b"<img src='data:image/webp;base64," + base64.b64encode(webp.getvalue()) + b"'>"
    for data in (webp.getvalue(), parquet.getvalue(), page):
        with pytest.raises(AssertionError):
            search(data, "x")


@pytest.fixture(scope="module")
def run(place):
    """A run with places in its settings, a prompt that dies of an error with more, and one dropped."""
    config = fake_config(place, place / "mrkuser-run", [*IDEAS, "x" * 30])
    config = replace(
        config,
        llm=LLMSettings(base_url="http://mrkserver.internal:8000/v1", model="/srv/mrkplace/models/writer"),
    )
    painter = f"{FAKES}:Painter"
    build(with_candidates(config, f"{painter}.poison={POISON}", f"{painter}.how={ERROR}"))
    facts = json.loads((place / "mrkuser-run/run.json").read_text())
    facts["config"]["candidates"]["model"] = str(place / "models/base")  # the fakes load none
    (place / "mrkuser-run/run.json").write_text(json.dumps(facts))
    return place / "mrkuser-run"


def test_a_published_data_set_tells_nothing_of_its_maker(run, tmp_path):
    from drspo.files.run import RunDir
    from pipeline.candidates.provenance import record_model

    record_model(
        RunDir(run), SimpleNamespace(model_id="/srv/mrkplace/base", commit="", fingerprint="0123456789ab")
    )
    assert (
        publish([str(run), "me/scrolls", "--license", "cc-by-4.0", "--dry-run", str(tmp_path / "tree")]) == 0
    )
    assert search_folder(tmp_path / "tree") > 8
    config = (tmp_path / "tree/config.yaml").read_text()
    assert "source: ideas.txt" in config and "model: writer" in config and "model: base" in config


def test_the_gallery_tells_nothing_of_its_maker(run, tmp_path):
    shown = run.with_name("shown")
    run.rename(shown)
    try:
        view(str(shown), str(tmp_path / "gallery.html"), groups=0, height=32)
    finally:
        shown.rename(run)
    search((tmp_path / "gallery.html").read_bytes(), "gallery")
    assert "could not open x.pt" in (tmp_path / "gallery.html").read_text()


def test_a_key_among_the_prompts_is_not_published(place, tmp_path):
    config = fake_config(tmp_path, tmp_path / "run", [*IDEAS[:2], f"a castle called {KEY} on a hill"])
    build(config)
    with pytest.raises(UserError, match="would publish the value of OPENAI_API_KEY") as caught:
        publish([config.out, "me/scrolls", "--license", "mit", "--dry-run", str(tmp_path / "tree")])
    assert KEY not in str(caught.value) and not (tmp_path / "tree").exists()


@pytest.mark.slow
def test_scrolls_and_everything_beside_them_tell_nothing_of_their_maker(place, tmp_path, monkeypatch):
    import shutil

    import miniature
    from drspo.cli import execute

    weights = Path(miniature.__file__).parent / "weights"
    for name in ("sdxl", "controlnet"):
        shutil.copytree(weights / name, place / "models" / name, dirs_exist_ok=True)
    lora = a_lora(place / "loras" / "mine")
    given = ["--model", place / "models/sdxl", "--controlnet", place / "models/controlnet", "--lora", lora]
    given += ["--controlnet-conditioning", "canny"]
    small = ["--height", "128", "--width", "256", "--steps", "2", "--save-extras", "--save-steps"]
    small += ["--drspo.blueprint.height", "64", "--drspo.blueprint.width", "128"]
    small += ["--drspo.windows.window", "128", "--drspo.windows.stride", "64"]
    for kind in ("png", "webp"):
        argv = ["a pine", *given, *small, "--other-base", "--out", tmp_path / "out" / f"scroll.{kind}"]
        assert execute("generate.program.command:main", [str(argument) for argument in argv]) == 0
    assert search_folder(tmp_path / "out") == 5
    monkeypatch.chdir(place)  # where relative paths would open again
    again = ["--like", tmp_path / "out/scroll.png", *given, "--out", tmp_path / "again.png"]
    assert execute("generate.program.command:main", [str(argument) for argument in again]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out/scroll.png").read_bytes()


def a_lora(folder: Path) -> Path:
    """A LoRA for the miniature's UNet that does something."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    import miniature

    unet = Path(miniature.__file__).parent / "weights/sdxl/unet/diffusion_pytorch_model.safetensors"
    with safe_open(unet, "pt") as file:
        name = next(key for key in file.keys() if key.endswith("attn1.to_q.weight"))  # noqa: SIM118
        out, features = file.get_tensor(name).shape
    layer = f"unet.{name.removesuffix('.weight')}"
    tensors = {
        f"{layer}.lora_A.weight": torch.ones(2, features) / 50,
        f"{layer}.lora_B.weight": torch.ones(out, 2),
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


def test_the_evaluations_page_tells_nothing_of_its_maker(place, tmp_path):
    from drspo.files.run import RunDir
    from eval.benchmark.cells import Cell
    from eval.benchmark.records import Record
    from eval.benchmark.suite import cells
    from eval.config import EvalConfig
    from eval.report.comparison import Comparison
    from eval.report.markdown import markdown
    from eval.report.page import write_report

    asked = {"methods": ("sdxl",), "baseline": "sdxl", "out": str(place / "eval")}
    config = EvalConfig(model=str(place / "models/base"), **asked)
    run, buffer = RunDir(config.out), io.BytesIO()
    Image.new("RGB", (64, 16), "red").save(buffer, "PNG")
    prompts = list(dict.fromkeys(cell.prompt for cell in cells(config)))
    for prompt in prompts:
        run.write(Cell("sdxl", prompt, 0).name, buffer.getvalue())
    facts = {"method": "sdxl", "seed": 0, "scorer": "judge", "higher_is_better": True, "unit": "points"}
    facts |= {"view": "whole", "checkpoint": f"{place}/clip", "checkpoint_hash": "0" * 12}
    records = [Record(prompt=prompt, value=1.0, **facts) for prompt in prompts[1:]]
    records.append(Record(prompt=prompts[0], value=float("nan"), error=ERROR, **facts))
    found = Comparison(records, "sdxl")
    write_report(config, run, found)
    for name in ("index.html", "data.js", "tables.csv", "records.csv", "tables.tex"):
        search(run.read(name), f"the evaluation's {name}")
    for text in (markdown(found), json.dumps(found.as_json())):
        search(text.encode(), "the evaluation's tables")
    assert "clip" in markdown(found) and b"could not open x.pt" in run.read("index.html")


def test_the_demonstrations_page_tells_nothing_of_its_maker(place):
    from drspo.demo import command
    from drspo.demo.config import DemoConfig
    from drspo.demo.page import write_page
    from tests.test_drspo_demo import finished_run

    config = DemoConfig(out=str(place / "mrkplace-demo" / "shown"))
    run = finished_run(place, config)
    write_page(run, config, command.shown_commands(config))
    page = run.read("index.html")
    search(page, "the demonstration's page")
    assert b"--out shown/data" in page, "its commands speak of the folder by its name"


def test_a_tracker_is_told_nothing_of_the_maker(place, monkeypatch):
    from drspo.config import to_dict
    from train.config import DataConfig, TrackingConfig, TrainConfig
    from train.report.tracking import Tracker

    asked = {}
    fake = SimpleNamespace(init=lambda **given: asked.update(given), Settings=lambda **given: given)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = TrainConfig(
        model=str(place / "base"), data=DataConfig(source="s3://mrkbucket/pairs"), out=str(place / "o")
    )
    (place / "o").mkdir()
    Tracker(place / "o", TrackingConfig(wandb_project="scrolls"), to_dict(config), True)
    search(repr({name: value for name, value in asked.items() if name != "dir"}).encode(), "wandb.init")
    assert asked["config"]["model"] == "base" and asked["config"]["data"]["source"] == "pairs"
    assert asked["settings"]["x_disable_meta"] and asked["settings"]["console"] == "off"
    assert asked["settings"]["host"] == "", "the service would else ask the machine"
