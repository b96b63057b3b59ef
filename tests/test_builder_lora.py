"""Publishing a LoRA: whole weights, true facts, and a card whose every line works elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dataset_builder.hub.publish import main
from drspo.errors import UserError
from tests.hub_stand_in import TOKEN, serving
from tests.train_pairs import pair_rows, write

WEIGHTS = "pytorch_lora_weights.safetensors"
REPO = "me/lora"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A LoRA of one step on the miniature's blueprint, as the trainer leaves it."""
    from train.command import main as train

    folder = tmp_path_factory.mktemp("a-secret-place")
    source = write(folder / "pairs.parquet", pair_rows(2, (64, 256)))
    argv = ["--config", "miniature", "--stage", "blueprint", "--data.source", source, "--max-steps", "1"]
    argv += ["--out", str(folder / "lora"), "--data.cache", str(folder / "cache"), "--pairs-per-step", "1"]
    argv += ["--data.validation-pairs", "0", "--samples.every", "0", "--device", "cpu"]
    assert train(argv) == 0
    return folder / "lora"


@pytest.fixture
def lora(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "lora")


@pytest.fixture
def hub(monkeypatch):
    with serving(monkeypatch) as hub:
        yield hub


def publish(lora, tmp_path, *flags, licence="mit"):
    tree = tmp_path / "tree"
    assert (
        main([str(lora), REPO, "--dry-run", str(tree), *(["--license", licence] * bool(licence)), *flags])
        == 0
    )
    return tree


def test_weights_facts_and_card_are_published_and_nothing_else(lora, tmp_path):
    (lora / "samples").mkdir(exist_ok=True)
    (lora / "samples/timeline.png").write_bytes(b"png")
    (lora / "my-own.png").write_bytes(b"png")
    tree = publish(lora, tmp_path)
    files = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    layouts = {WEIGHTS, "kohya.safetensors", "adapter_model.safetensors", "adapter_config.json"}
    assert files == layouts | {"drspo.json", "README.md", "samples/timeline.png"}
    assert (tree / WEIGHTS).read_bytes() == (lora / WEIGHTS).read_bytes(), "nothing to hide, nothing changed"


def test_no_place_of_the_machine_is_in_a_published_lora(lora, tmp_path):
    for path in publish(lora, tmp_path).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"a-secret-place" not in data and str(tmp_path).encode() not in data, path.name


def test_places_that_an_older_training_wrote_become_names(lora, tmp_path):
    facts = json.loads((lora / "drspo.json").read_text())
    facts |= {
        "base_model": "/home/mrk/models/base",
        "base": "/home/mrk/models/base",
        "dataset": "s3://mrk/pairs",
    }
    (lora / "drspo.json").write_text(json.dumps(facts))
    tensors = load_file(lora / WEIGHTS)
    with safe_open(lora / WEIGHTS, "pt") as file:
        header = file.metadata()
    save_file(
        tensors,
        lora / WEIGHTS,
        metadata={**header, "drspo": json.dumps(facts), "plain": "/home/mrk/x", "secret_key": "mrk"},
    )
    tree = publish(lora, tmp_path)
    assert b"mrk" not in (tree / WEIGHTS).read_bytes() and b"mrk" not in (tree / "drspo.json").read_bytes()
    with safe_open(tree / WEIGHTS, "pt") as file:
        assert (
            json.loads(file.metadata()["drspo"])["base_model"] == "base" and file.metadata()["plain"] == "x"
        )
    published = load_file(tree / WEIGHTS)
    assert all(torch.equal(published[name], tensor) for name, tensor in tensors.items())


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def not_finite(path):
    tensors = load_file(path)
    tensors[sorted(tensors)[0]][0] = float("nan")
    save_file(tensors, path)


def one_half(path):
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, path)


DAMAGE = {
    "cut weights": (WEIGHTS, cut, "cannot be read"),
    "cut kohya weights": ("kohya.safetensors", cut, "cannot be read"),
    "empty weights": (WEIGHTS, lambda path: path.write_bytes(b""), "cannot be read"),
    "a pointer": (WEIGHTS, lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
    "a model": (WEIGHTS, lambda path: save_file({"unet.x.weight": torch.ones(2)}, path), "no whole LoRA"),
    "half a layer": (WEIGHTS, one_half, "no whole LoRA"),
    "numbers": (WEIGHTS, not_finite, "not finite"),
    "broken facts": ("drspo.json", lambda path: path.write_text("{"), "drspo.json is broken"),
    "a list of facts": ("drspo.json", lambda path: path.write_text("[]"), "no facts"),
    "no stage": ("drspo.json", lambda path: path.write_text("{}"), "no 'stage'"),
    "no facts": ("drspo.json", lambda path: path.unlink(), "no drspo.json"),
    "no card": ("README.md", lambda path: path.unlink(), "no README.md"),
    "a broken head": ("README.md", lambda path: path.write_text("---\n[\n---\n"), "no YAML"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_refused_and_nothing_is_written(name, lora, tmp_path):
    file, damage, message = DAMAGE[name]
    damage(lora / file)
    with pytest.raises(UserError, match=message):
        publish(lora, tmp_path)
    assert not (tmp_path / "tree").exists()


def test_the_licence_is_asked_for_and_then_stands_in_head_and_text(lora, tmp_path):
    with pytest.raises(UserError, match="needs a licence"):
        publish(lora, tmp_path, licence="")
    card = (publish(lora, tmp_path) / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    section = card.partition("## Licence")[2].partition("##")[0]
    assert "`mit`" in section and "state" not in section


def test_the_licence_that_the_base_requires_is_kept(lora, tmp_path):
    card = (lora / "README.md").read_text()
    (lora / "README.md").write_text(card.replace("library_name", "license: openrail++\nlibrary_name", 1))
    card = (publish(lora, tmp_path, licence="") / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "openrail++"
    with pytest.raises(UserError, match="as the base model requires"):
        publish(lora, tmp_path, licence="mit")


@pytest.mark.slow
def test_every_command_and_snippet_of_a_published_card_works(lora, hub, tmp_path, repository):
    """Run as a stranger would who has the package and the Hub (here its stand-in)."""
    assert main([str(lora), REPO, "--license", "mit"]) == 0
    card = hub.files(REPO, "models")["README.md"].decode()
    assert "base_model" not in yaml.safe_load(card.split("---")[1]), "the miniature is not on the Hub"
    blocks = dict(re.findall(r"^~~~(python|sh)\n(.*?)^~~~", card, re.MULTILINE | re.DOTALL))
    fetch = re.search(r"`(hf download [^`]+)`", card)[1]
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    env |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"PYTHONPATH": str(repository), "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    command = f"{fetch} && {blocks['sh'].strip()} --steps 2"
    asked = [["bash", "-c", command], [sys.executable, "-c", blocks["python"]]]
    for arguments in asked:
        done = subprocess.run(arguments, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, (arguments, done.stderr[-2000:])
    assert (tmp_path / "scroll.png").exists()


def test_a_cut_dry_run_leaves_what_was_there(lora, tmp_path, monkeypatch):
    tree = publish(lora, tmp_path)
    before = {path.name: path.read_bytes() for path in tree.iterdir() if path.is_file()}

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        publish(lora, tmp_path, licence="cc0-1.0")
    assert {path.name: path.read_bytes() for path in tree.iterdir() if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "tree"], "nothing half-made is left"


@pytest.mark.parametrize("where", ["", "tree", ".."])
def test_a_dry_run_into_its_own_source_is_refused(lora, where):
    before = (lora / "README.md").read_bytes()
    with pytest.raises(UserError, match="inside one another"):
        main([str(lora), REPO, "--license", "mit", "--dry-run", str(lora / where)])
    assert (lora / "README.md").read_bytes() == before
