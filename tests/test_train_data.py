"""The trainer's data: every layout becomes the same rows, every unusable row leaves with its reason."""

import io

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from drspo.errors import UserError
from pipeline.records import pair_schema
from tests.train_pairs import SIZE, pair_rows, pickapic_rows, png, write
from train.pairs.listing import hold_out
from train.pairs.rows import Dropped, PairRow, canvas_picture, check_pair, has_split, read_rows


def row(chosen: bytes, rejected: bytes, prompt: str = "a lake") -> PairRow:
    return PairRow(pair_id="p", prompt=prompt, chosen=chosen, rejected=rejected)


def test_our_layout_gives_prompt_and_both_pictures(tmp_path):
    rows = list(read_rows(write(tmp_path / "a.parquet", pair_rows(3)), "train"))
    assert [r.pair_id for r in rows] == ["pair-0", "pair-1", "pair-2"]
    assert rows[1].chosen == png(1) and rows[1].prompt == "a lake at dusk number 1"


def test_an_export_of_the_dataset_builder_is_read_with_its_splits(tmp_path):
    schema = pair_schema(["aesthetic"])
    scores = {"chosen_scores": {"aesthetic": 2.0}, "rejected_scores": {"aesthetic": 1.0}}
    for split, count in (("train", 3), ("validation", 2)):
        rows = [dict.fromkeys(schema.names) | r | scores for r in pair_rows(count)]
        path = tmp_path / "export" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    assert len(list(read_rows(str(tmp_path), "train"))) == 3
    assert has_split(str(tmp_path), "validation") and len(list(read_rows(str(tmp_path), "validation"))) == 2


def test_pickapic_labels_choose_the_side_and_ties_are_dropped_with_the_reason(tmp_path):
    source = write(tmp_path / "a.parquet", pickapic_rows([1.0, 0.0, 0.5, None]))
    first, second, tie, unlabelled = read_rows(source, "train")
    assert first.chosen == png(0) and second.rejected == png(1)
    assert str(tie[1]) == "tie" and str(unlabelled[1]) == "no label"


def test_a_missing_column_names_itself_and_what_is_there(tmp_path):
    rows = [{key: value for key, value in r.items() if key != "rejected"} for r in pair_rows(1)]
    with pytest.raises(UserError, match="missing column rejected") as caught:
        list(read_rows(write(tmp_path / "a.parquet", rows), "train"))
    assert "chosen, pair_id, prompt" in caught.value.hint


def test_a_file_that_is_no_parquet_is_the_users_error(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PK not a table")
    with pytest.raises(UserError, match="not a (readable|whole) Parquet file"):
        list(read_rows(str(path), "train"))


def test_a_source_that_does_not_exist_is_the_users_error(tmp_path):
    with pytest.raises(UserError):
        list(read_rows(str(tmp_path / "none.parquet"), "train"))


def test_a_subset_of_files_is_refused_rather_than_ignored(tmp_path):
    with pytest.raises(UserError, match="only a Hub dataset has configurations"):
        list(read_rows(write(tmp_path / "a.parquet", pair_rows(1)), "train", "pickapic"))


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (row(png(0), png(1, (64, 192))), "unequal sizes: chosen 64x256, rejected 64x192"),
        (row(b"", png(1)), "chosen: broken image"),
        (row(b"GIF89a nonsense", png(1)), "chosen: broken image"),
        (row(png(0, (32, 128)), png(1, (32, 128))), "smaller pictures are not enlarged"),
        (row(png(0, (64, 512)), png(1, (64, 512))), "another aspect"),
        (row(png(0), png(1), prompt="  "), "empty prompt"),
        (row(png(0), png(0)), "chosen and rejected are the same picture"),
    ],
)
def test_unusable_pairs_are_dropped_with_their_reason(pair, reason):
    with pytest.raises(Dropped, match=reason):
        check_pair(pair, *SIZE, "downscale")


def test_a_larger_picture_of_the_same_aspect_is_reduced_only_where_asked():
    pair = row(png(0, (128, 512)), png(1, (128, 512)))
    check_pair(pair, *SIZE, "downscale")
    assert canvas_picture(pair.chosen, *SIZE).size == (SIZE[1], SIZE[0])
    with pytest.raises(Dropped, match="data.resize is none"):
        check_pair(pair, *SIZE, "none")


def test_a_truncated_picture_is_dropped_when_it_is_decoded():
    cut = png(0, smooth=False)[:4000]
    check_pair(row(cut, png(1)), *SIZE, "none")  # its header is whole
    with pytest.raises(Dropped, match="broken image"):
        canvas_picture(cut, *SIZE)


def test_a_picture_of_the_canvas_size_is_not_touched():
    data = png(5, smooth=False)
    with Image.open(io.BytesIO(data)) as image:
        assert canvas_picture(data, *SIZE).tobytes() == image.convert("RGB").tobytes()


def test_holding_out_takes_whole_prompts_and_does_not_depend_on_the_order():
    pairs = [{"prompt": f"prompt {n % 20}", "row": n} for n in range(100)]
    train, held_out = hold_out(pairs, 12)
    assert {p["prompt"] for p in train}.isdisjoint({p["prompt"] for p in held_out})
    assert len(held_out) == 12 and len(train) == 85
    assert {p["row"] for p in hold_out(pairs[::-1], 15)[1]} == {p["row"] for p in hold_out(pairs, 15)[1]}
