"""`drspo doctor`: the models of this machine, by the commits that a result is repeated with."""

import os

from drspo import doctor

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


def cached_model(cache, repo, commits, main):
    """A model's folder as the Hub's client leaves it, with one file of 3 MiB at each commit."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs" / "main").write_text(main)
    for commit in commits:
        blob = folder / "blobs" / commit
        blob.write_bytes(bytes(3 << 20))
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        os.symlink(f"../../blobs/{commit}", snapshot / "model.safetensors")


def test_each_model_in_the_hubs_cache_is_shown_with_its_commits(tmp_path, monkeypatch, capsys):
    cached_model(tmp_path, "somebody/scrolls", [COMMIT, OTHER], main=COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert f"somebody/scrolls@{COMMIT} 3 MiB (main)" in said
    assert f"somebody/scrolls@{OTHER} 3 MiB\n" in said


def test_a_machine_without_a_cache_has_no_models(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"), raising=False
    )
    assert doctor._models() == {}
