"""Weights are found where they lie, and what is missing is named with its id, its file and a place for it."""

import hashlib

import huggingface_hub
import pytest

from drspo.errors import UserError
from eval.backbones.files import Found, find

NAMES = ("first.pt", "second.safetensors")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The Hub's client as far as it is asked: a repository with some files, or no network at all."""

    def __init__(self, monkeypatch, files=(), network=True, folder=None, cached=()):
        self.asked = 0

        def model_info(api, repo, revision=None, timeout=None):
            self.asked += 1
            if not network:
                raise ConnectionError("no route")
            files_there = [type("File", (), {"rfilename": name}) for name in files]
            return type("Info", (), {"siblings": files_there, "sha": COMMIT})

        def download(repo, name, revision=None):
            path = folder / "snapshots" / revision / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
            return str(path)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(
            huggingface_hub, "try_to_load_from_cache",
            lambda repo, name, revision=None: str(folder / name) if name in cached else None,
        )  # fmt: skip


def test_without_a_network_the_hub_is_asked_once_and_the_message_says_what_to_do(monkeypatch):
    hub = Hub(monkeypatch, network=False)
    with pytest.raises(UserError) as error:
        find("owner/name", NAMES, "judge")
    said = str(error.value)
    assert hub.asked == 1 and "owner/name/first.pt" in said and "ConnectionError" in said
    assert "hf download owner/name 'first.pt'" in said and "--judges.options judge.weights=FOLDER" in said


def test_a_repository_without_the_file_is_told_from_one_that_cannot_be_reached(monkeypatch):
    Hub(monkeypatch, files=["README.md"])
    with pytest.raises(UserError, match="the repository has no such file"):
        find("owner/name", NAMES, "judge")


def test_the_first_file_that_a_repository_has_is_fetched_at_its_commit(monkeypatch, tmp_path):
    Hub(monkeypatch, files=["second.safetensors"], folder=tmp_path)
    found = find("owner/name", NAMES, "judge")
    assert found.path.name == "second.safetensors" and found.revision == COMMIT


def test_what_the_cache_holds_needs_no_network(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, network=False, folder=tmp_path, cached=["second.safetensors"])
    assert find("owner/name@main", NAMES, "judge").path == tmp_path / "second.safetensors"
    assert hub.asked == 0


def test_a_folder_a_file_and_a_package_are_taken_as_they_are(tmp_path):
    (tmp_path / "second.safetensors").write_bytes(b"2")
    assert find(str(tmp_path), NAMES, "judge").path.name == "second.safetensors"
    assert find(str(tmp_path / "second.safetensors"), ("other",), "judge").path.name == "second.safetensors"
    assert find("package:miniature/weights/clip", ("vocab.json",), "judge").path.is_file()
    with pytest.raises(UserError, match="put other.pt there"):
        find(str(tmp_path), ("other.pt",), "judge")
    with pytest.raises(UserError, match="leads out of its package"):
        find("package:miniature/../eval", NAMES, "judge")


def test_the_digest_is_the_whole_files_and_follows_a_change(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"x" * 100)
    assert Found("w", path).sha256 == hashlib.sha256(b"x" * 100).hexdigest()
    path.write_bytes(b"x" * 99 + b"y")
    assert Found("w", path).sha256 == hashlib.sha256(b"x" * 99 + b"y").hexdigest()
    assert Found("owner/name@v1", path).revision == "v1"
