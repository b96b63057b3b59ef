"""A scroll's file says how to make it again, and nothing that changes between two makings."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from drspo.errors import UserError
from generate.program.metadata import Record, encode, read, versions
from generate.request import Request


def record(**changes) -> Record:
    request = Request(prompt="a castle at dusk", height=128, width=512, seed=3, steps=25, guidance_scale=3.0)
    values = {
        "request": request, "model": "miniature", "fingerprint": "abc", "method": "drspo",
        "settings": {"strength": 0.7, "windows": {"size": [128, 128]}},
        "loras": {"highres": {"path": "lora", "sha256": "ff", "weight": 1.0}},
        "options": {"device": "cpu", "dtype": "float32"}, "versions": versions(),
    }  # fmt: skip
    return Record(**{**values, **changes})


def picture() -> Image.Image:
    return Image.effect_noise((64, 32), 80).convert("RGB")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_the_record_and_the_pixels_come_back_from_the_file(tmp_path, suffix):
    path, image = tmp_path / f"scroll{suffix}", picture()
    path.write_bytes(encode(image, record(), suffix))
    assert read(path) == record()
    assert Image.open(path).convert("RGB").tobytes() == image.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_the_same_picture_and_record_give_the_same_bytes(suffix):
    image = picture()
    assert encode(image, record(), suffix) == encode(image.copy(), record(), suffix)


@settings(max_examples=30, deadline=None)
@given(prompt=st.text(max_size=60), negative=st.text(max_size=20))
def test_any_prompt_survives_the_file(tmp_path_factory, prompt, negative):
    request = Request(prompt=prompt, negative_prompt=negative, height=8, width=8)
    for suffix in (".png", ".webp"):
        path = tmp_path_factory.mktemp("any") / f"x{suffix}"
        path.write_bytes(encode(Image.new("RGB", (8, 8)), record(request=request), suffix))
        assert read(path).request == request


def test_the_versions_of_all_that_enters_the_bytes_are_named():
    assert {"drspo", "torch", "diffusers", "pillow"} <= versions().keys()
    assert "unknown" not in versions().values()


def test_a_difference_names_the_setting_and_both_values():
    other = record(settings={"strength": 0.5, "windows": {"size": [128, 128]}})
    assert record().difference(other) == ["settings.strength: 0.7 -> 0.5"]
    assert record().difference(record()) == []


def test_tuples_and_lists_are_the_same_setting():
    one = record(settings={"size": (1, 2)})
    assert one.difference(record(settings={"size": [1, 2]})) == []


def test_a_lossy_format_is_not_offered():
    with pytest.raises(ValueError, match="lossless"):
        encode(picture(), record(), ".jpg")


def damaged(path, text: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("drspo", text)
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", pnginfo=chunks)
    path.write_bytes(buffer.getvalue())


GOOD = json.dumps({"format": 1, **record().to_dict()})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[1, 2]", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 1, "request": 5}', "damaged"),
        (GOOD.replace('"format": 1', '"format": 9'), "format 9"),
        (GOOD.replace('"height"', '"hieght"'), "damaged"),
    ],
)
def test_a_damaged_record_is_the_users_error(tmp_path, text, message):
    damaged(tmp_path / "x.png", text)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x.png")


def test_a_picture_without_a_record_a_text_and_nothing_are_told_apart(tmp_path):
    picture().save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(encode(picture(), record(), ".png")[:40])
    for name, message in (
        ("plain.png", "no record"),
        ("text.png", "not a picture"),
        ("gone.png", "no file"),
    ):
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)
    with pytest.raises(UserError):
        read(tmp_path / "cut.png")
