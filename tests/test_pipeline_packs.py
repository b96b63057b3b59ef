"""Units read alike from files and from packs; a damaged pack loses what is damaged, and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from drspo.files.patience import StoreFailsError
from drspo.files.remote_file import RemoteFile
from drspo.files.storage import Storage
from pipeline import packs
from pipeline.compaction import Tally
from pipeline.packs import pack_name
from pipeline.units import DamagedFile, UnitStore, done_units, unit_name
from tests.packing import COMPACTED, FRESH, SCORERS, UNITS, compact, contents, fresh, names, row, store_in


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MOST_UNITS", 2)


def test_units_read_alike_from_packs_and_files_and_doing_it_again_does_nothing() -> None:
    store = fresh()
    before, facts = contents(store), [store.read(unit, ["prompt"]) for unit in UNITS]
    assert compact(store) == Tally(files=4, packs=2)
    assert sorted(names(store)) == sorted(COMPACTED)
    for reader in (store, store_in(store.storage.base)):
        assert contents(reader) == before
        assert [reader.read(unit, ["prompt"]) for unit in UNITS] == facts
        assert reader.read_rows(UNITS[0]) == [row(UNITS[0], f"first {UNITS[0]}")]
        assert reader.listing() == (set(UNITS), []) and len(reader.done()) == len(UNITS)
    assert done_units(store.storage) == set(UNITS)
    bytes_before = {name: store.storage.read(name) for name in store.storage.list()}
    assert compact(store) == Tally()
    assert {name: store.storage.read(name) for name in store.storage.list()} == bytes_before


def test_a_pack_is_one_parquet_file_of_the_same_schema_that_anyone_can_read(tmp_path: Path) -> None:
    store = store_in(Storage(tmp_path))
    for unit in UNITS:
        store.commit([row(unit, f"first {unit}")])
    schema = pq.read_schema(tmp_path / unit_name(UNITS[0]))
    compact(store)
    file = pq.ParquetFile(tmp_path / pack_name("ab", 1))
    assert file.schema_arrow.equals(schema) and file.num_row_groups == 2
    assert file.metadata.metadata[b"drspo_units"].decode().split() == UNITS[:2]
    ids = [pq.read_table(path)["unit_id"].to_pylist() for path in sorted(tmp_path.glob("units/*/*.parquet"))]
    assert sorted(itertools.chain(*ids)) == UNITS


def test_a_pack_ends_when_it_has_enough_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fresh()
    size = len(store.storage.read(unit_name(UNITS[0])))
    monkeypatch.setattr(packs, "MOST_UNITS", 100)
    monkeypatch.setattr(packs, "MOST_BYTES", size // 2)
    assert compact(store) == Tally(files=4, packs=2)


def spoil(store: UnitStore, name: str, at: bytes) -> None:
    """Flip a bit behind the last place of `at`; without a place, cut the file."""
    data = store.storage.read(name)
    place = data.rindex(at) + len(at) + 5 if at else 0
    store.storage.write(
        name, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] if at else data[:-9]
    )


def test_of_a_damaged_pack_only_what_is_damaged_is_made_anew() -> None:
    store = fresh()
    compact(store)
    before = contents(store)
    spoil(store, pack_name("ab", 1), b"first ab%030x" % 1)
    with pytest.raises(DamagedFile, match=r"ab/pack-000001\.parquet") as caught:
        store_in(store.storage.base).read(UNITS[1])
    assert store.read(UNITS[0]) == before[UNITS[0]] and store.read(UNITS[1], ["unit_id"])
    target = store.move_aside(caught.value.name, caught.value.why)
    assert target.startswith("quarantine/units_ab_pack-000001.parquet.")
    assert store.done() == set(UNITS) - {UNITS[1]}
    whole = [unit for unit in UNITS if unit != UNITS[1]]
    assert contents(store, whole) == {unit: before[unit] for unit in whole}
    store.commit([row(UNITS[1], f"first {UNITS[1]}")])
    assert compact(store).packs == 1 and "pack-000003.parquet" in names(store), "no number is used again"
    assert contents(store) == contents(store_in(store.storage.base)) == before
    assert "pack-000001.parquet" not in names(store)


@pytest.mark.parametrize("index", [True, False])
def test_a_pack_whose_footer_is_lost_is_named_and_holds_nothing(index: bool) -> None:
    store = fresh()
    compact(store)
    if not index:
        store.storage.delete(pack_name("ab", 2, "index"))
    spoil(store, pack_name("ab", 2), b"")
    reader = store_in(store.storage.base)
    done, others = reader.listing()
    if index:  # which says what the pack held: whoever reads of it finds out
        with pytest.raises(DamagedFile, match=r"ab/pack-000002\.parquet"):
            reader.read(UNITS[2])
        reader.move_aside(pack_name("ab", 2), "cut")
        done, others = reader.listing()
        assert others == []
    else:
        assert others == [pack_name("ab", 2)]
    assert done == {*UNITS[:2], UNITS[4]}
    assert compact(reader) == Tally(damaged=set() if index else {pack_name("ab", 2)})


def test_later_units_get_packs_of_their_own_and_one_index_tells_of_all() -> None:
    store = fresh()
    compact(store)
    listed, reader = store.storage.list("units/ab/"), store_in(store.storage.base)
    later = [f"ab{number:030x}" for number in range(10, 14)]
    for unit in later:
        store.commit([row(unit)])
    assert compact(store) == Tally(files=4, packs=2)
    assert [name for name in names(store) if name.endswith("index")] == ["pack-000004.index"]
    assert store.done() == {*UNITS, *later}
    assert reader.packs.load("ab", listed).packs == (1, 2, 3, 4), "an index that was replaced meanwhile"
    assert contents(reader, later) == contents(store, later)


def test_a_damaged_index_is_named_and_footers_tell_the_same() -> None:
    store = fresh()
    compact(store)
    before = contents(store)
    spoil(store, pack_name("ab", 2, "index"), b"")
    reader = store_in(store.storage.base)
    assert reader.listing() == (set(UNITS), [pack_name("ab", 2, "index")])
    assert contents(reader) == before
    reader.move_aside(pack_name("ab", 2, "index"), "cut")
    compact(reader)
    assert sorted(names(store)) == sorted(COMPACTED)


def test_damaged_files_are_left_and_named() -> None:
    store = fresh()
    spoil(store, unit_name(UNITS[0]), b"")
    assert compact(store) == Tally(files=4, packs=2, damaged={unit_name(UNITS[0])})
    with pytest.raises(DamagedFile, match=UNITS[0]):
        store.read(UNITS[0])


def test_a_foreign_pack_is_never_used() -> None:
    store = fresh()
    compact(store)
    for name in ("units/cd/pack-000001.parquet", pack_name("ab", 9)):
        other = store_in(f"memory://packs-{next(FRESH)}")
        for unit in UNITS:
            other.commit([replace(row(unit), config_hash="other")])
        UnitStore(other.storage, "other", SCORERS)
        compact(UnitStore(other.storage, "other", SCORERS))
        store.storage.write(name, other.storage.read(pack_name("ab", 1)))
    assert store.listing() == (set(UNITS), ["units/cd/pack-000001.parquet"])
    assert store.read(UNITS[0])["config_hash"].to_pylist() == ["cfg"], "the lower number counts"


def test_a_store_that_fails_says_nothing_about_a_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fresh()
    compact(store)
    store.storage.delete(pack_name("ab", 2, "index"))

    def fails(*_: Any, **__: Any) -> Any:
        raise StoreFailsError("the object store keeps failing")

    monkeypatch.setattr(RemoteFile, "readinto", fails)
    for ask in (store.done, lambda: store_in(store.storage.base).read(UNITS[0]), lambda: compact(store)):
        with pytest.raises(StoreFailsError):
            ask()
