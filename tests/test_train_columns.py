"""Public preference datasets are read as they are: small tables in exactly their layouts, every file form."""

import csv
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from drspo.errors import UserError
from tests.hub_stand_in import TOKEN, HubStandIn
from tests.train_pairs import pair_rows, png, write
from train.pairs.rows import PairRow, has_split, read_rows
from train.pairs.sources import source_stamp

BEST, MIDDLE, WORST = (png(seed) for seed in range(3))


def pictures(folder):
    for name, data in (("best.png", BEST), ("middle.png", MIDDLE), ("worst.png", WORST)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def assert_best_beats_worst(row):
    assert isinstance(row, PairRow), row
    assert (row.prompt, row.chosen, row.rejected) == ("a lake", BEST, WORST)


def pickapic(version, **changed):
    """All columns of pick-a-pic's rows; version 2 has a few more."""
    row = {"are_different": True, "best_image_uid": "a", "caption": "a lake", "created_at": None}
    row |= {"has_label": True, "image_0_uid": "a", "image_0_url": "", "image_1_uid": "b", "image_1_url": ""}
    row |= {"jpg_0": BEST, "jpg_1": WORST, "label_0": 1.0, "label_1": 0.0, "model_0": "m", "model_1": "n"}
    row |= {"ranking_id": 7, "user_id": 1, "num_example_per_prompt": 1, "__index_level_0__": 0}
    return row | ({"best_caption": "x"} if version == 2 else {}) | changed


@pytest.mark.parametrize("version", [1, 2])
def test_pickapic_is_read_as_it_is(tmp_path, version):
    rows = [pickapic(version), pickapic(version, label_0=0.5), pickapic(version, has_label=False)]
    better, tie, unlabelled = read_rows(write(tmp_path / "a.parquet", rows), "train")
    assert_best_beats_worst(better)
    assert tie[0] == "7" and str(tie[1]) == "tie" and str(unlabelled[1]) == "no label"


@pytest.mark.parametrize("column", ["file_path", "image_path"])
def test_hpdv2_as_downloaded_is_read_with_pictures_in_the_splits_folder(tmp_path, column):
    pictures(tmp_path / "train"), pictures(tmp_path / "test")
    train = {
        "prompt": "a lake",
        column: ["worst.png", "best.png"],
        "human_preference": [0, 1],
        "user_hash": "x",
    }
    test = {"prompt": "a lake", "image_path": ["middle.png", "worst.png", "best.png"], "rank": [2, 3, 1]}
    test["raw_annotations"] = [{"rank": [2, 3, 1], "user_hash": "x"}]
    (tmp_path / "train.json").write_text(json.dumps([train, train | {"human_preference": [1, 1]}]))
    (tmp_path / "test.json").write_text(json.dumps([test]))
    row, tie = read_rows(str(tmp_path), "train")
    assert_best_beats_worst(row)
    assert str(tie[1]) == "tie"
    assert has_split(str(tmp_path), "test") and not has_split(str(tmp_path), "validation")
    assert_best_beats_worst(next(iter(read_rows(str(tmp_path), "test"))))


def test_hpdv3_as_downloaded_prefers_its_first_path(tmp_path):
    pictures(tmp_path / "images")
    row = {"prompt": "a lake", "path1": "images/best.png", "path2": "images/worst.png", "confidence": 0.9}
    row |= {"choice_dist": [12, 7], "model1": "a", "model2": "b"}
    (tmp_path / "train.json").write_text(json.dumps([row]))
    assert_best_beats_worst(*read_rows(str(tmp_path), "train"))


def image_reward_row(image, rank, prompt_id="p1"):
    row = {"image_id": str(rank), "prompt_id": prompt_id, "prompt": "a lake", "classification": "Outdoor"}
    row |= {"image_amount_in_total": 3, "rank": rank, "overall_rating": 4, "fidelity_rating": 5}
    return row | {"image_text_alignment_rating": 4} | image


def test_image_reward_db_ranks_the_pictures_of_one_prompt_against_each_other(tmp_path):
    ranked = [(MIDDLE, 2), (WORST, 3), (BEST, 1)]
    rows = [image_reward_row({"image": {"bytes": data, "path": "x"}}, rank) for data, rank in ranked]
    rows.append(image_reward_row({"image": {"bytes": BEST, "path": "x"}}, 1, "p2"))
    pair, alone = read_rows(write(tmp_path / "a.parquet", rows), "train")
    assert_best_beats_worst(pair)
    assert str(alone[1]).startswith("one picture only")


def test_image_reward_db_as_downloaded_names_files(tmp_path):
    pictures(tmp_path / "images" / "train" / "train_1")
    ranked = [("middle", 2), ("worst", 3), ("best", 1)]
    rows = [image_reward_row({"image_path": f"images/train/train_1/{n}.png"}, r) for n, r in ranked]
    write(tmp_path / "metadata-train.parquet", rows)
    assert_best_beats_worst(*read_rows(str(tmp_path), "train"))


def test_image_reward_dbs_pairs_name_the_better_one(tmp_path):
    row = {"prompt_id": "p", "prompt": "a lake", "classification": "", "img_better": BEST, "img_worse": WORST}
    assert_best_beats_worst(*read_rows(write(tmp_path / "a.parquet", [row]), "train"))


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "train/metadata.csv", "train.json"])
def test_a_folder_of_pictures_is_read_by_its_table(tmp_path, name):
    table = tmp_path / name
    pictures(table.parent)
    row = {"prompt": "a lake", "chosen_file_name": "best.png", "rejected_file_name": "worst.png"}
    if table.suffix == ".csv":
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)
    else:
        table.write_text(json.dumps([row]) if table.suffix == ".json" else json.dumps(row) + "\n")
    assert_best_beats_worst(*read_rows(str(tmp_path), "train"))
    assert_best_beats_worst(*read_rows(str(table), "train"))
    before = source_stamp(str(tmp_path))
    table.write_text(table.read_text().replace("a lake", "two lakes"))
    assert before and source_stamp(str(tmp_path)) != before


def test_names_never_lead_out_of_the_tables_own_folder(tmp_path):
    pictures(tmp_path / "outside"), pictures(tmp_path / "data")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "outside" / "worst.png")
    out = tmp_path / "outside" / "worst.png"
    names = ["../outside/worst.png", str(out), "link.png", "gone.png"]
    lines = [json.dumps({"prompt": "a", "chosen": "best.png", "rejected": name}) for name in names]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines))
    reasons = [str(reason) for _, reason in read_rows(str(tmp_path / "data"), "train")]
    assert ["leads out" in reason for reason in reasons] == [True, True, True, False]
    assert "there is no file 'gone.png'" in reasons[3]


def test_columns_by_name_fill_what_no_layout_knows(tmp_path):
    source = write(tmp_path / "a.parquet", [{"text": "a lake", "win": BEST, "lose": WORST, "label_0": 0}])
    words = ["prompt=text", "chosen=win", "rejected=lose"]
    assert_best_beats_worst(*read_rows(source, "train", columns=words))
    with pytest.raises(UserError, match="there is no column winner"):
        list(read_rows(source, "train", columns=["chosen=winner"]))
    with pytest.raises(UserError, match="missing column prompt"):
        list(read_rows(source, "train", columns=words[1:]))
    sides = ["prompt=text", "first=lose", "second=win", "label=label_0"]
    assert_best_beats_worst(*read_rows(source, "train", columns=sides))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["winner=win"], "is not role=column"),
        (["chosen"], "is not role=column"),
        (["chosen=a", "chosen=b"], "given twice"),
        (["chosen=a", "label=b"], "do not make a pair together"),
    ],
)
def test_a_wrong_role_is_refused_before_anything_is_read(words, said):
    from tests.test_train_refusals import config
    from train.checks import check_config

    with pytest.raises(UserError, match=said):
        check_config(config("--out", "x", "--data.source", "y", "--data.columns", *words))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt', "a.jsonl:2"),
        ("a.csv", "prompt,chosen,rejected\na,b\n", "a.csv:2"),
        ("a.json", '{"prompt": "x"}', "a.json"),
        ("a.jsonl", "[1]\n", "a.jsonl:1"),
    ],
)
def test_a_damaged_table_names_the_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        list(read_rows(str(tmp_path / name), "train", columns=["chosen=prompt", "rejected=prompt"]))
    assert said in str(caught.value)


READER = """
import sys
from train.pairs.rows import read_rows
rows = read_rows("me/pairs", "train")
print(" ".join(next(rows).pair_id for _ in range(2)))
"""


def test_of_a_hub_dataset_only_what_the_limit_asks_for_is_downloaded(tmp_path):
    files = {".gitattributes": b""}
    for shard in range(3):
        path = tmp_path / f"{shard}.parquet"
        parquet.write_table(pa.Table.from_pylist(pair_rows(2, start=2 * shard)), path)
        files[f"data/train-{shard:05}-of-00003.parquet"] = path.read_bytes()
    with HubStandIn() as hub:
        hub.repos["datasets", "me/pairs"] = {"private": False, "commits": [{"oid": "1" * 40, "files": files}]}
        place = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        env = (
            os.environ
            | place
            | {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        )
        argv = [sys.executable, "-c", READER]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["pair-0", "pair-1"]
    bodies = [r for r in hub.requests if r.startswith("GET") and r.endswith(".parquet")]
    assert any("train-00000" in request for request in bodies)
    assert not any("train-00002" in request for request in bodies), bodies
