"""The cache of latents and embeddings: computed once, shared, never half a file."""

import errno
import os

import pytest
import torch

from drspo.errors import UserError
from train.pairs.cache import TensorCache, image_key, text_key


def test_an_entry_is_computed_once_and_then_read(tmp_path):
    cache, calls = TensorCache(tmp_path, "latents", "vae"), []
    value = torch.randn(4, 2, 3)
    for _ in range(3):
        found = cache.get("abcd", lambda: calls.append(1) or {"latents": value})
        assert torch.equal(found["latents"], value)
    assert len(calls) == 1 and cache.counts == {"hits": 2, "misses": 1}


def test_another_run_with_the_same_encoder_finds_the_entries_and_another_encoder_does_not(tmp_path):
    TensorCache(tmp_path, "latents", "vae").get("abcd", lambda: {"latents": torch.ones(1)})
    same, other = TensorCache(tmp_path, "latents", "vae"), TensorCache(tmp_path, "latents", "other")
    same.get("abcd", lambda: pytest.fail("computed again"))
    assert other.get("abcd", lambda: {"latents": torch.zeros(1)})["latents"].item() == 0


def test_a_damaged_entry_is_computed_anew(tmp_path):
    cache = TensorCache(tmp_path, "latents", "vae")
    cache.get("abcd", lambda: {"latents": torch.ones(3)})
    cache.path("abcd").write_bytes(b"half a fi")
    assert cache.get("abcd", lambda: {"latents": torch.ones(3)})["latents"].sum() == 3
    assert cache.counts["damaged"] == 1
    assert cache.read("abcd")["latents"].sum() == 3


def test_a_full_disk_is_the_users_error_and_leaves_no_file(tmp_path, monkeypatch):
    cache = TensorCache(tmp_path, "latents", "vae")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        cache.get("abcd", lambda: {"latents": torch.ones(3)})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_keys_depend_on_bytes_and_preprocessing():
    keys = {image_key(b"a", 8, 16, "none"), image_key(b"b", 8, 16, "none"), image_key(b"a", 16, 16, "none")}
    keys |= {image_key(b"a", 8, 16, "downscale"), text_key("a"), text_key("A")}
    assert len(keys) == 6


def test_an_entry_that_vanished_is_reported_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="gone or damaged") as caught:
        TensorCache(tmp_path, "latents", "vae").read("abcd")
    assert "run the same command again" in caught.value.hint
