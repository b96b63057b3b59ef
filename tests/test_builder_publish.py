"""Publishing to a stand-in of the Hub: cut, continued, grown, refused; read back by the usual libraries."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from dataset_builder.hub.publish import check_repo_id, main
from drspo.errors import UserError
from drspo.leaving import without_secrets
from pipeline.settings import PairSettings
from pipeline.shards import read_pairs
from tests.building import IDEAS, build, fake_config
from tests.hub_stand_in import READ_ONLY, TOKEN, serving

REPO = "me/tiny-scrolls"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run over six ideas; tests grow it by choosing other pairs, which makes no new image."""
    folder = tmp_path_factory.mktemp("publish")
    config = fake_config(folder, folder / "out", IDEAS, pairs=PairSettings(validation_fraction=0.5))
    build(config)
    return folder


@pytest.fixture
def run(folder):
    repair(folder, "best_worst")
    return folder / "out"


def repair(folder, method):
    config = fake_config(folder, folder / "out", IDEAS, pairs=PairSettings(validation_fraction=0.5))
    return build(replace(config, pairs=replace(config.pairs, method=method)))


@pytest.fixture
def hub(monkeypatch):
    with serving(monkeypatch) as hub:
        yield hub


def publish(run, *flags, repo=REPO, licence="cc-by-4.0"):
    return main([str(run), repo, *(["--license", licence] if licence else []), *flags])


def rows(files, config="data"):
    import io

    import pyarrow.parquet as pq

    shards = [
        data for path, data in files.items() if path.startswith(f"{config}/") and path.endswith(".parquet")
    ]
    return sum(pq.ParquetFile(io.BytesIO(data)).metadata.num_rows for data in shards)


def test_what_is_uploaded_is_exactly_the_dry_run(run, hub, tmp_path, capsys):
    assert publish(run, "--dry-run", str(tmp_path / "tree")) == 0
    assert not hub.requests
    assert publish(run) == 0
    tree = {
        p.relative_to(tmp_path / "tree").as_posix(): p.read_bytes()
        for p in (tmp_path / "tree").rglob("*")
        if p.is_file()
    }
    uploaded = dict(hub.files(REPO))
    uploaded.pop(".gitattributes")
    assert uploaded == tree
    assert hub.repos["datasets", REPO]["private"] is True and "private" in capsys.readouterr().out
    commit = json.loads((run / "run.json").read_text())["phases"]["publish"]["commit"]
    assert commit == hub.commits(REPO)[-1]


def test_publishing_again_sends_no_object_and_makes_no_commit(run, hub):
    publish(run)
    commits, before = hub.commits(REPO), len([r for r in hub.requests if r.startswith("PUT")])
    publish(run)
    assert hub.commits(REPO) == commits
    assert len([r for r in hub.requests if r.startswith("PUT")]) == before


@pytest.mark.parametrize("seed", [0, 1])
def test_a_publication_cut_three_times_ends_identical_to_an_uncut_one(run, hub, seed):
    publish(run, repo="me/uncut")
    hub.objects.clear()  # so that the objects have to be sent again
    # Even an attempt that finds all objects there needs so many requests, so each of the three is cut.
    least = sum(not request.startswith("PUT") and "lfs-verify" not in request for request in hub.requests)
    draw = random.Random(seed)
    for _ in range(3):
        hub.cut_after(draw.randrange(least))
        with pytest.raises(UserError, match="connection to the Hub failed") as caught:
            publish(run, repo="me/cut")
        assert "same command continues" in str(caught.value)
    hub.cut_after(None)
    assert publish(run, repo="me/cut") == 0
    names = {"me/uncut": "ID", "me/cut": "ID"}
    first, second = ({p: _renamed(d, names) for p, d in hub.files(repo).items()} for repo in names)
    assert first == second


def _renamed(data, names):
    for name in names:
        for form in (name, re.sub(r"\W+", "_", name), name.partition("/")[2]):
            data = data.replace(form.encode(), b"ID")
    return data


def test_growth_replaces_and_never_doubles_rows_and_shrinking_deletes(run, hub):
    publish(run)
    small = rows(hub.files(REPO))
    assert repair(run.parent, "all").pairs["train"] > small
    publish(run)
    grown = hub.files(REPO)
    pairs = len(list(read_pairs(str(run)))) + len(list(read_pairs(str(run), "validation")))
    assert rows(grown) == pairs > small
    hub.repos["datasets", REPO]["commits"][-1]["files"]["data/train-00007-of-00009.parquet"] = b"stale"
    hub.repos["datasets", REPO]["commits"][-1]["files"]["notes.md"] = b"written by hand"
    repair(run.parent, "best_worst")
    publish(run)
    after = hub.files(REPO)
    assert rows(after) == small and "data/train-00007-of-00009.parquet" not in after
    assert after["notes.md"] == b"written by hand", "files of others stay"


READER = """
import io, json, sys
from PIL import Image
from datasets import load_dataset
found = {}
for config in ("default", "pickapic"):
    for split in ("train", "validation"):
        whole = load_dataset(sys.argv[1], config, split=split)
        stream = list(load_dataset(sys.argv[1], config, split=split, streaming=True))
        picture = whole[0].get("chosen") or Image.open(io.BytesIO(whole[0]["jpg_0"]))
        found[f"{config}/{split}"] = [len(whole), len(stream), list(picture.size), sorted(whole.column_names)]
        assert stream[0].keys() == whole[0].keys()
        text = "prompt" if config == "default" else "caption"
        assert [row[text] for row in stream] == whole[text][:]
from train.pairs.rows import read_rows
found["trainer"] = [
    [sum(1 for _ in read_rows(sys.argv[1], split, subset)) for split in ("train", "validation")]
    for subset in ("", "pickapic")
]
from pipeline.ideas.prompts import ingest
from pipeline.ideas.sources import PromptSettings
rows = ingest(PromptSettings(source=sys.argv[1], split="validation")).to_pylist()
found["ideas"] = [[row["text"], row["source"], row["status"]] for row in rows]
try:
    ingest(PromptSettings(source="me/nothing-here"))
except Exception as error:
    found["missing"] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_load_dataset_reads_both_configs_streaming_and_not(run, hub, tmp_path):
    repair(run.parent, "all")
    publish(run)
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    env |= {
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", READER, REPO], env=env, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = {split: len(list(read_pairs(str(run), split))) for split in ("train", "validation")}
    ideas, missing = found.pop("ideas"), found.pop("missing")
    assert found.pop("trainer") == [[expected["train"], expected["validation"]]] * 2
    texts = [pair["prompt"] for pair in read_pairs(str(run), "validation", columns=["prompt"])]
    assert [text for text, *_ in ideas] == texts and ideas[0][1] == f"{REPO}/validation#0"
    assert {text for text, _, status in ideas if status == "ok"} == set(texts)
    assert missing[0] == "UserError" and "cannot read the data set" in missing[1]
    for name, (whole, stream, size, columns) in found.items():
        assert whole == stream == expected[name.partition("/")[2]], name
        assert size == [64, 32]
        assert {"jpg_0", "jpg_1", "label_0", "caption"} <= set(columns)
        assert ({"chosen", "rejected", "prompt"} <= set(columns)) == name.startswith("default")


def test_our_trainer_reads_a_publication_and_pick_a_pics_columns_as_the_same_pairs(run, tmp_path):
    import pyarrow.parquet as pq

    from pipeline.records import PICKAPIC
    from train.pairs.rows import PairRow, check_pair, has_split, read_rows

    tree = tmp_path / "tree"
    publish(run, "--dry-run", str(tree))
    for split in ("train", "validation"):
        (shard,) = (tree / "data").glob(f"{split}-*.parquet")
        theirs = tmp_path / f"{split}.parquet"
        pq.write_table(pq.read_table(shard, columns=list(PICKAPIC)), theirs)
        ours, other = list(read_rows(str(tree), split)), list(read_rows(str(theirs), split))
        for row in (*ours, *other):
            assert isinstance(row, PairRow)
            check_pair(row, 32, 64, "none")
        assert [(r.prompt, r.chosen, r.rejected) for r in ours] == [
            (r.prompt, r.chosen, r.rejected) for r in other
        ]
        assert ours and has_split(str(tree), split)


def test_a_tree_is_written_from_an_object_store_too_and_is_made_equal(tmp_path):
    from dataset_builder.hub.tree import Tree
    from drspo.files.storage import Storage

    storage = Storage("memory://publish-tree")
    storage.write("export/data/train-00000-of-00001.parquet", b"shard")
    name = "data/train-00000-of-00001.parquet"
    tree = Tree("dataset", storage, {"README.md": b"card"}, {name: f"export/{name}"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000-of-00009.parquet").write_bytes(b"older")
    (tmp_path / "notes.md").write_bytes(b"mine")
    tree.write(tmp_path, link=True)
    files = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"README.md": b"card", name: b"shard", "notes.md": b"mine"}


THEIRS = {
    "model": ("base.safetensors", "photo.png", "samples/mine.png", "a/README.md", "a/kohya.safetensors"),
    "dataset": ("assets/logo.svg", "assets/pair-1/a.webp", "data/mine.parquet", "data/a.csv", "ranking/x/y"),
}
DEEPER = (
    "samples/a/timeline.png",
    "data/old/train-00000-of-00001.parquet",
    "a/drspo.json",
    "assets/a/seam.svg",
)
STALE = {
    "model": ("kohya.safetensors", "adapter_config.json", "curves.png", "samples/timeline.png"),
    "dataset": (
        "assets/pair-3.webp",
        "assets/seam.svg",
        "pickapic/train-00000-of-00001.parquet",
        "ranking/validation-00001-of-00002.parquet",
    ),
}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_others_files_stay_at_any_depth_and_what_we_wrote_goes_when_it_is_stale(kind, hub, tmp_path):
    from dataset_builder.hub.publish import upload
    from dataset_builder.hub.tree import Tree
    from drspo.files.storage import Storage

    theirs = dict.fromkeys((*THEIRS[kind], *DEEPER), b"precious")
    there = theirs | dict.fromkeys(STALE[kind], b"stale")
    tree = Tree(kind, Storage(str(tmp_path / "source")), {"README.md": b"card"}, {})
    folder = tmp_path / "target"
    for name, data in there.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    tree.write(folder)
    left = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert left == {**theirs, "README.md": b"card"}
    upload(tree, REPO, private=True)
    key = f"{kind}s"
    hub.repos[key, REPO]["commits"][-1]["files"] |= there
    upload(Tree(kind, tree.storage, {"README.md": b"newer"}, {}), REPO, private=True)
    uploaded = hub.files(REPO, key)
    uploaded.pop(".gitattributes", None)
    assert uploaded == {**theirs, "README.md": b"newer"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": ""}, "needs a licence"),
        ({"licence": "cc-by-4"}, "Did you mean 'cc-by-4.0'"),
        ({"repo": "scrolls"}, "Write owner/name"),
        ({"repo": "me/bad..name"}, "does not allow this name"),
        ({"repo": "me/-bad"}, "does not allow this name"),
        ({"repo": "stranger/scrolls"}, "may not write here"),
    ],
)
def test_bad_input_is_one_clear_message(run, hub, changes, message):
    with pytest.raises(UserError, match=message):
        publish(run, **changes)


@pytest.mark.parametrize(
    ("token", "message"), [("hf_wrongToken123", "rejects the token"), (READ_ONLY, "may not write")]
)
def test_a_bad_token_is_named_and_not_shown(run, hub, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message) as caught:
        publish(run)
    assert token not in str(caught.value)


def test_without_a_token_nothing_is_sent(run, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="no token"):
        publish(run)
    assert not hub.requests


def test_a_run_without_an_export_and_a_foreign_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        publish(tmp_path)
    from drspo.files.run import RunDir

    RunDir(tmp_path).start("train", PairSettings(), "0")
    with pytest.raises(UserError, match="a run of 'train'"):
        publish(tmp_path)


def test_no_secret_is_in_any_published_file_and_one_in_the_settings_is_refused(run, hub, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    publish(run)
    assert not any(TOKEN.encode() in d or b"sk-very-secret-key" in d for d in hub.files(REPO).values())
    assert TOKEN not in (run / "run.json").read_text()
    monkeypatch.setenv("OPENAI_API_KEY", "preference pairs of long scroll")  # words of the card
    with pytest.raises(UserError, match="would publish the value of OPENAI_API_KEY"):
        publish(run)
    assert without_secrets("token hf_abcdefghijk here") == "token *** here"


def test_names_the_hub_allows_are_allowed():
    check_repo_id("me/scrolls-001_v1.0")


def test_the_readmes_line_publishes_as_it_is_printed(run, tmp_path, monkeypatch, repository):
    import shlex

    lines = (repository / "README.md").read_text().splitlines()
    printed = [shlex.split(line) for line in lines if line.startswith("    drspo publish ")]
    assert printed
    monkeypatch.chdir(tmp_path)
    for words in printed:
        (tmp_path / words[2]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / words[2]).symlink_to(run)
        assert main(words[2:]) == 0
        assert (tmp_path / words[words.index("--dry-run") + 1] / "README.md").exists()
