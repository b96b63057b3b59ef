"""Unit files are committed once and checked when read; shards are deterministic and show pictures."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.candidates.images import decode, encode
from pipeline.records import Candidate, UnitRow, pair_schema, ranking_schema, unit_table
from pipeline.shards import encode_shard, read_pairs, shard_identity
from pipeline.units import DamagedFile, UnitStore, encode_unit, unit_name

UNIT = "ab" + "0" * 30


def picture(seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (16, 64, 3), dtype=np.uint8))


def unit(prompt: str = "a hill", unit_id: str = UNIT, config: str = "cfg") -> UnitRow:
    data = encode(picture(), "webp-lossless")
    candidate = Candidate(
        candidate_id="c",
        generator="mad",
        seed=1,
        image={"bytes": data, "path": "c.webp"},
        image_bytes=len(data),
    )
    return UnitRow(
        unit_id=unit_id, prompt_id="p", parent_id="", prompt=prompt, status="ok", config_hash=config,
        candidates=(candidate,),
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    return UnitStore(Storage(tmp_path), "cfg", ("aesthetic",))


def test_of_many_writers_of_one_unit_exactly_one_wins(store: UnitStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda i: store.commit([unit(prompt=f"copy {i}")]), range(8)))
    assert wins.count(True) == 1
    assert store.read_rows(UNIT)[0].prompt == f"copy {wins.index(True)}"
    assert store.done() == {UNIT}


def test_a_stray_file_is_no_unit(store: UnitStore) -> None:
    store.commit([unit()])
    store.storage.write("units/ab/notes.txt", b"x")
    store.storage.write(f"units/cd/{UNIT}.parquet", b"x")
    assert store.listing() == ({UNIT}, ["units/ab/notes.txt", f"units/cd/{UNIT}.parquet"])


def flipped(data: bytes) -> bytes:
    """The file with one bit of the image flipped."""
    at = data.index(b"RIFF") + 40
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def foreign(_: bytes) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), buffer)
    return buffer.getvalue()


def whole(row: UnitRow) -> bytes:
    return encode_unit(unit_table([row], ("aesthetic",)))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[: len(data) // 2], "not a whole Parquet file"),
        (lambda data: b"", "not a whole Parquet file"),
        (flipped, "not a whole Parquet file"),
        (foreign, "columns"),
        (lambda data: whole(unit(unit_id="ff" + "0" * 30)), "another unit"),
        (lambda data: whole(unit(config="other")), "another configuration"),
    ],
)
def test_a_damaged_or_foreign_unit_is_named_never_used(store: UnitStore, damage: Any, why: str) -> None:
    store.storage.write(unit_name(UNIT), damage(whole(unit())))
    with pytest.raises(DamagedFile, match=why) as caught:
        store.read_rows(UNIT)
    target = store.move_aside(caught.value.name, caught.value.why)
    assert target.startswith("quarantine/") and store.storage.exists(target)
    assert store.done() == set()


def pair(index: int, **changes: Any) -> dict[str, Any]:
    images = {
        side: {"bytes": encode(picture(index * 2 + k), "webp-lossless"), "path": f"{index}{k}.webp"}
        for k, side in enumerate(("chosen", "rejected"))
    }
    return {
        "pair_id": f"{index:032x}", "prompt_id": "p", "prompt": f"hill {index}",
        "chosen_id": "a", "rejected_id": "b", "chosen_generator": "mad", "rejected_generator": "sdxl",
        "chosen_seed": 1, "rejected_seed": 2,
        "chosen_score": 2.0, "rejected_score": 1.0, "chosen_scores": {"aesthetic": 2.0},
        "rejected_scores": {"aesthetic": 1.0}, "margin": 1.0, "height": 16, "width": 64, "split": "train",
        "schema_version": 1, **images, **changes,
    }  # fmt: skip


SCHEMA = pair_schema(["aesthetic"], pickapic=False)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    storage = Storage(tmp_path)
    storage.write("run.json", b"{}")
    for index in range(2):
        rows = [[pair(10 * index + i) for i in range(3)], [pair(10 * index + 3)]]
        storage.write(
            f"export/data/train-{index:05d}-of-00002.parquet", encode_shard(rows, SCHEMA, f"id{index}")
        )
    return tmp_path


def test_pairs_are_read_in_order_from_run_export_glob_and_file(exported: Path) -> None:
    texts = [f"hill {i}" for i in (0, 1, 2, 3, 10, 11, 12, 13)]
    for source in (
        exported,
        exported / "export",
        exported / "export/data",
        f"{exported}/export/data/*.parquet",
    ):
        assert [row["prompt"] for row in read_pairs(str(source))] == texts
    first = next(
        read_pairs(f"{exported}/export/data/train-00001-of-00002.parquet", columns=["prompt", "chosen"])
    )
    assert set(first) == {"prompt", "chosen"}
    assert np.array_equal(np.asarray(decode(first["chosen"]["bytes"])), np.asarray(picture(20)))


def test_a_missing_split_shard_or_column_is_named(exported: Path) -> None:
    with pytest.raises(UserError, match="no validation shards"):
        next(read_pairs(str(exported), "validation"))
    with pytest.raises(UserError, match="no column mood"):
        next(read_pairs(str(exported), columns=["mood"]))
    (exported / "export/data/train-00000-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="1 shards where their names promise 2"):
        next(read_pairs(str(exported)))


def test_a_truncated_shard_is_refused_by_name(exported: Path) -> None:
    file = exported / "export/data/train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet"):
        list(read_pairs(str(exported)))
    assert shard_identity(Storage(exported), "export/data/train-00001-of-00002.parquet") == ""
    assert shard_identity(Storage(exported), "export/data/train-00000-of-00002.parquet") == "id0"


def test_the_same_rows_give_the_same_bytes_and_images_are_stored_as_they_are() -> None:
    rows = [[pair(0), pair(1)], [pair(2)]]
    data = encode_shard(rows, SCHEMA, "x")
    assert data == encode_shard(rows, SCHEMA, "x")
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 1]
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    assert {c.path_in_schema for c in columns if c.compression == "UNCOMPRESSED"} == {
        "chosen.bytes",
        "rejected.bytes",
    }
    assert rows[0][0]["chosen"]["bytes"] in data


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_shows_pictures(exported: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    files = str(exported / "export/data/*.parquet")
    cache = str(exported / "cache")
    table = datasets.load_dataset(
        "parquet", data_files=files, split="train", streaming=streaming, cache_dir=cache
    )
    row = next(iter(table))
    assert isinstance(row["chosen"], Image.Image) and row["chosen"].size == (64, 16)
    assert np.array_equal(np.asarray(row["rejected"].convert("RGB")), np.asarray(picture(1)))
    assert row["chosen_scores"] == {"aesthetic": 2.0}


def features(schema: pa.Schema) -> dict:
    return json.loads(schema.metadata[b"huggingface"])["info"]["features"]


def test_the_schemas_declare_their_images_and_copies_for_scripts_are_plain_bytes() -> None:
    pairs, groups = features(pair_schema(["aesthetic"])), features(ranking_schema(["aesthetic"]))
    assert pairs["chosen"] == pairs["rejected"] == {"_type": "Image"}
    assert pairs["jpg_0"] == pairs["jpg_1"] == {"dtype": "binary", "_type": "Value"}
    assert groups["images"] == {"feature": {"_type": "Image"}, "_type": "List"}
    assert groups["scores"] == {
        "feature": {"aesthetic": {"dtype": "float64", "_type": "Value"}},
        "_type": "List",
    }


def test_lossless_encodings_keep_every_pixel_and_jpeg_does_not() -> None:
    image = picture()
    for encoding, same in (("webp-lossless", True), ("png", True), ("jpeg95-444", False)):
        restored = np.asarray(decode(encode(image, encoding)))
        assert np.array_equal(restored, np.asarray(image)) == same
    with pytest.raises(ValueError, match="RGB"):
        encode(image.convert("L"), "png")


@pytest.mark.parametrize("encoding", ["webp-lossless", "jpeg95-444", "png"])
def test_nothing_but_pixels_is_stored(encoding: str) -> None:
    image = picture()
    told = {"comment": b"made in /home/me", "icc_profile": b"of my screen", "transparency": (0, 0, 0)}
    told |= {"exif": b"Exif\0\0mine", "dpi": (300, 300)}
    bare, image.info = encode(image, encoding), told
    assert encode(image, encoding) == bare and image.info == told
