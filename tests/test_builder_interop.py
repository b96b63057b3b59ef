"""Programs of others read what we publish, and the run itself, as they stand: diffusers' DPO script, TRL."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataset_builder.hub.publish import main
from pipeline.records import PICKAPIC
from pipeline.settings import ExportSettings, PairSettings
from pipeline.shards import read_pairs
from tests.building import IDEAS, build, fake_config


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run, its export, and what would be published of it."""
    folder = tmp_path_factory.mktemp("interop")
    pairs = PairSettings(method="all", validation_fraction=0.4)
    build(fake_config(folder, folder / "out", IDEAS, pairs=pairs, export=ExportSettings(ranking=True)))
    tree = folder / "tree"
    main([str(folder / "out"), "me/scrolls", "--license", "cc-by-4.0", "--dry-run", str(tree)])
    return {"run": folder / "out", "export": folder / "out/export", "published": tree}


@pytest.fixture(params=["run", "export", "published"])
def place(request: pytest.FixtureRequest, places: dict[str, Path]) -> str:
    return str(places[request.param])


def load(place: str, tmp_path: Path, *config: str, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(place, *config, cache_dir=str(tmp_path / "cache"), **options)


def test_the_diffusion_dpo_script_finds_plain_bytes_and_labels_in_the_first_configuration(
    place: str, tmp_path: Path
) -> None:
    """What train_diffusion_dpo_sdxl does to a data set, in our words: a transform over batches of columns."""
    table = load(place, tmp_path, split="train")
    winners = []

    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        sides = [
            [Image.open(io.BytesIO(data)).convert("RGB") for data in batch[c]] for c in ("jpg_0", "jpg_1")
        ]
        for first, second, label in zip(*sides, batch["label_0"], strict=True):
            assert first.size == second.size == (64, 32) and label in (0, 1)
            winners.append((second if label == 0 else first).tobytes())
        return {**batch, "tokens": [len(caption) for caption in batch["caption"]]}

    rows = table.with_transform(transform)
    seen = [rows[index] for index in range(len(rows))]
    pairs = list(read_pairs(place, "train"))
    assert [row["caption"] for row in seen] == [pair["prompt"] for pair in pairs]
    chosen = [Image.open(io.BytesIO(pair["chosen"]["bytes"])).convert("RGB").tobytes() for pair in pairs]
    assert winners == chosen


def test_trl_takes_the_first_configuration_for_preferences(place: str, tmp_path: Path) -> None:
    """TRL tells the kinds of data sets apart by which of these columns they have, and images by two names."""
    columns = set(load(place, tmp_path, split="train").column_names)
    told_apart_by = {"prompt", "chosen", "rejected", "completion", "messages", "label"}
    assert columns & told_apart_by == {"prompt", "chosen", "rejected"}
    assert not columns & {"image", "images"}


def test_every_split_and_row_is_found_among_everything_else_in_the_folder(place: str, tmp_path: Path) -> None:
    found = load(place, tmp_path)
    assert set(found) == {"train", "validation"}
    for split, table in found.items():
        assert table["pair_id"][:] == [pair["pair_id"] for pair in read_pairs(place, split)]
        assert isinstance(table[0]["chosen"], Image.Image)


@pytest.mark.parametrize("name", ["run", "published"])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_other_configurations_are_views_and_whole_groups(
    places: dict[str, Path], name: str, streaming: bool, tmp_path: Path
) -> None:
    place = str(places[name])
    rows = list(load(place, tmp_path, "pickapic", split="train", streaming=streaming))
    assert [set(row) for row in rows] == [set(PICKAPIC)] * len(list(read_pairs(place)))
    groups = list(load(place, tmp_path, "ranking", split="train", streaming=streaming))
    assert len(groups) > 1
    for group in groups:
        assert all(isinstance(image, Image.Image) for image in group["images"])
        assert len(group["images"]) == len(group["ranks"]) == 4 and group["ranks"][0] == 1


def test_without_the_copies_the_export_holds_every_image_of_a_pair_once(tmp_path: Path) -> None:
    both = build(fake_config(tmp_path, tmp_path / "both"))
    once = build(fake_config(tmp_path, tmp_path / "once", export=ExportSettings(pickapic=False)))
    large, small = (
        sum((tmp_path / folder / shard).stat().st_size for shard in outcome.shards)
        for folder, outcome in (("both", both), ("once", once))
    )
    assert small < 0.6 * large
    table = load(str(tmp_path / "once"), tmp_path, split="train")
    assert not set(table.column_names) & set(PICKAPIC) and len(table) == len(IDEAS)
