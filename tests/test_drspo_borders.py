"""Files of strangers are bounded, names in data stay in their folder, prepared links are not followed."""

from __future__ import annotations

import json
import os
import stat
import tempfile

import pytest

from drspo import log
from drspo.errors import UserError
from drspo.files import private
from drspo.files.inside import inside
from drspo.files.storage import Storage
from drspo.files.texts import load_yaml, parse_json, read_text

LAUGHS = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{m}, *{m}]\n" for m, n in zip("abcdefghij", "bcdefghijk"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "aliases"),
        ("a: &a [*a]", "aliases"),
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 500 + "1" + "}" * 500, "nested too deeply"),
        ("a: [1, 2", "not valid YAML"),
        ("a: 2024-13-45", "malformed"),
        ("? [a]\n: 1", "not valid YAML"),
        ("!!python/object/apply:os.system [echo]", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_a_hostile_yaml_is_a_clear_error(text, says):
    with pytest.raises(UserError, match=says):
        load_yaml(text, "shared.yaml")


def test_yaml_says_the_line():
    with pytest.raises(UserError, match=r"shared\.yaml:3"):
        load_yaml("a: 1\nb: &x 2\nc: *x\n", "shared.yaml")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 100_000, "NaN", "[1, Infinity]", "{", "1" * 5000, ""]
)
def test_a_hostile_json_is_a_clear_error(text):
    with pytest.raises(UserError, match="JSON"):
        parse_json(text, "run.json")


def test_a_text_is_bounded_and_a_pipe_is_no_file(tmp_path):
    (tmp_path / "big").write_bytes(b"a" * 2_000_000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for name, says in (("big", "larger than"), ("pipe", "no such file"), ("latin", "UTF-8"), (".", "folder")):
        with pytest.raises(UserError, match=says):
            read_text(tmp_path / name)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "circle").symlink_to(folder / "circle")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "/etc/hostname",
        "../secret",
        "link",
        "circle",
        "a/../../secret",
        "",
        "x\0y",
        "http://x/a.png",
        "none.png",
        ".",
    ],
)
def test_a_name_in_data_stays_in_the_datas_folder(data, name):
    with pytest.raises(UserError):
        inside(data, name)
    assert inside(data, "a.png").read_bytes() == b"a"
    assert inside(data, str(data / "a.png")).read_bytes() == b"a"


@pytest.mark.parametrize("written", ["{}/secret.txt", "../secret.txt", "link/secret.txt"])
def test_a_row_with_a_path_instead_of_a_picture_reads_no_file_outside_its_folder(tmp_path, written):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.records import IMAGE
    from train.pairs.rows import Dropped, read_rows

    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    row = {
        "prompt": "a",
        "chosen": {"bytes": None, "path": written.format(tmp_path)},
        "rejected": {"bytes": b"x", "path": ""},
    }
    schema = pa.schema([("prompt", pa.string()), ("chosen", IMAGE), ("rejected", IMAGE)])
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(tmp_path)
    pq.write_table(pa.Table.from_pylist([row], schema=schema), data / "pairs.parquet")
    [(_, reason)] = read_rows(str(data / "pairs.parquet"), "train")
    assert isinstance(reason, Dropped) and "leads out of the data" in str(reason)


# --- links that somebody prepared


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private.private_folder.cache_clear()
    yield tmp_path
    private.private_folder.cache_clear()


def prepared_link(place, victim):
    victim.parent.mkdir()
    place.symlink_to(victim.parent)


def prepared_open(place, victim):
    victim.parent.mkdir()
    place.mkdir()
    place.chmod(0o777)


def prepared_file(place, victim):
    victim.parent.mkdir()
    place.write_text("")


@pytest.mark.parametrize("prepare", [prepared_link, prepared_open, prepared_file])
def test_a_prepared_temporary_folder_is_not_used(prepare, temporary):
    from pipeline.candidates.guard import fault_file

    victim = temporary / "home" / f"{os.getpid()}.txt"
    prepare(temporary / f"drspo-faults-{os.getuid()}", victim)
    victim.write_text("precious")
    file = fault_file(os.getpid())
    with private.open_unlinked(file, "w") as stream:
        stream.write("crash")
    assert victim.read_text() == "precious"
    assert file.resolve().parent != victim.parent
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_all_processes_of_a_user_share_the_private_folder(temporary):
    first = private.private_folder("faults")
    private.private_folder.cache_clear()
    assert private.private_folder("faults") == first


def test_the_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "log.txt").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="link"):
        log.setup(file=tmp_path / "log.txt")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_link_in_a_run_folder_carries_no_write_out_of_it(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    run.mkdir()
    (outside / "x").write_text("precious")
    (run / "units").symlink_to(outside)
    (run / "run.json").symlink_to(outside / "x")
    storage = Storage(run)
    for change in (
        lambda: storage.write("units/x", b"1"),
        lambda: storage.create("units/ab/y", b"1"),
        lambda: storage.delete("units/x"),
    ):
        with pytest.raises(UserError, match="link leads out"):
            change()
    storage.write("run.json", b"{}")  # takes the link's place
    assert (outside / "x").read_text() == "precious" and sorted(outside.iterdir()) == [outside / "x"]


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "deep" / "page.html"
    Storage(path.parent).write(path.name, b"whole")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        Storage(tmp_path / "file").write("page.html", b"x")
    assert path.read_bytes() == b"whole" and list(path.parent.iterdir()) == [path]


def test_a_damaged_manifest_is_named(tmp_path):
    from drspo.files.run import RunDir

    for text in (
        "[]",
        "{}",
        '{"program": 1}',
        "[" * 10_000,
        json.dumps({"program": "x", "config_hash": "y"}),
    ):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UserError, match="run.json"):
            RunDir(tmp_path).manifest()
