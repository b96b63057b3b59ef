"""A compaction that is killed, doubled, or meets readers and late workers changes nothing that is read."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline import packs
from pipeline.compaction import Compaction, Tally
from pipeline.packs import PACK_FILE, pack_name
from pipeline.records import DEAD, unit_table
from pipeline.units import encode_unit, unit_name
from tests.packing import COMPACTED, SCORERS, UNITS, compact, contents, fresh, names, row, store_in


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MOST_UNITS", 2)


class Watched(Storage):
    """A storage that calls `act` before each of its operations."""

    def __init__(self, url: str, act: Callable[[], object]) -> None:
        super().__init__(url)
        self.act = act

    @property
    def _folder(self) -> Any:
        return _Watching(super()._folder, self.act)


class _Watching:
    def __init__(self, folder: Any, act: Callable[[], object]) -> None:
        self._inner, self._act = folder, act

    def __getattr__(self, name: str) -> Any:
        self._act()
        return getattr(self._inner, name)


class Killed(BaseException):
    """What no program catches."""


def at(moment: int, act: Callable[[], object], ever_after: bool = False) -> Callable[[], None]:
    """Calls `act` at the operation of that number, counted from 0; and at all later ones if so asked."""
    passed = itertools.count()

    def step() -> None:
        number = next(passed)
        if number == moment or (ever_after and number > moment):
            act()

    return step


def operations() -> int:
    """How many there are in a compaction."""
    store, count = fresh(), itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "MOST_UNITS", 2)
        Compaction(store_in(Watched(store.storage.base, lambda: next(count)))).folder("ab")
    return next(count)


def die() -> None:
    raise Killed


@pytest.mark.parametrize("moment", range(operations()))
def test_a_compaction_killed_at_any_operation_changes_nothing_and_the_next_one_ends_its_work(
    moment: int,
) -> None:
    store = fresh()
    before = contents(store)
    doomed = store_in(Watched(store.storage.base, at(moment, die, ever_after=True)))
    with pytest.raises(Killed):
        Compaction(doomed).folder("ab")
    assert contents(store_in(store.storage.base)) == contents(store) == before
    assert store.listing() == (set(UNITS), []) and len(store.done()) == len(UNITS)
    compact(store)
    assert sorted(names(store)) == sorted(COMPACTED)
    assert contents(store_in(store.storage.base)) == contents(store) == before
    assert compact(store) == Tally()


@pytest.mark.parametrize("moment", range(operations()))
def test_beside_a_compaction_another_and_readers_old_and_new_meet_every_unit_once(moment: int) -> None:
    store = fresh()
    before, reader = contents(store), store_in(store.storage.base)
    reader.done()

    def meanwhile() -> None:
        assert contents(reader) == contents(store_in(store.storage.base)) == before
        compact(store)
        assert contents(reader) == contents(store_in(store.storage.base)) == before

    other = store_in(Watched(store.storage.base, at(moment, meanwhile)))
    Compaction(other).folder("ab")
    assert sorted(names(store)) == sorted(COMPACTED)
    assert contents(reader) == contents(other) == contents(store_in(store.storage.base)) == before
    held = [unit for n in (1, 2) for unit in store._held(pack_name("ab", n))]
    assert sorted([*held, UNITS[4]]) == UNITS


def test_a_file_that_is_packed_while_it_is_read_is_read_from_its_pack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = fresh()
    real, gone = Storage.open, []

    def opened(storage: Storage, name: str, mode: str = "rb") -> Any:
        stream = real(storage, name, mode)
        if name == unit_name(UNITS[1]) and not gone:
            gone.append(name)
            compact(store_in(storage.base))
        return stream

    monkeypatch.setattr(Storage, "open", opened)
    reader = store_in(store.storage.base)
    assert reader.read(UNITS[1])["prompt"].to_pylist() == [f"first {UNITS[1]}"] and gone
    assert not store.storage.list("quarantine/")


def test_what_a_late_worker_writes_of_a_packed_unit_is_never_read_and_goes_with_the_next_compaction() -> None:
    store = fresh()
    compact(store)
    before = contents(store)
    late = row(UNITS[1], "late")
    assert not store_in(store.storage.base).commit([late]) and sorted(names(store)) == sorted(COMPACTED)
    # One that was killed before it looked.
    assert store.storage.create(unit_name(UNITS[1]), encode_unit(unit_table([late], SCORERS)))
    for reader in (store, store_in(store.storage.base)):
        assert contents(reader) == before and len(reader.done()) == len(UNITS)
    assert compact(store) == Tally(copies=1)
    assert contents(store_in(store.storage.base)) == before
    assert sorted(names(store)) == sorted(COMPACTED)


def test_units_with_a_dead_prompt_stay_files_which_can_be_deleted() -> None:
    store = fresh(UNITS[:3])
    store.commit([row(UNITS[3], status=DEAD)])
    store.commit([row(UNITS[4])])
    store.storage.write(f"dead/{UNITS[4]}-p.json", b"{}")  # which its worker is about to take back
    assert compact(store) == Tally(files=2, packs=1, dead=set(UNITS[3:]))
    assert {f"{unit}.parquet" for unit in UNITS[3:]} < set(names(store))
    store.storage.delete(unit_name(UNITS[4]))
    assert store.done() == set(UNITS[:4])


def test_a_pack_is_checked_before_its_files_go(monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = fresh(), Storage.put_new
    before = contents(store)

    def rotten(storage: Storage, name: str, file: Any) -> bool:
        if PACK_FILE.fullmatch(name):
            file.seek(400)
            file.write(b"rotten")
        return real(storage, name, file)

    monkeypatch.setattr(Storage, "put_new", rotten)
    with pytest.raises(UserError, match="damaged as soon as they are written"):
        compact(store)
    assert sorted(names(store)) == [f"{unit}.parquet" for unit in UNITS]
    assert contents(store) == before and len(store.storage.list("quarantine/")) == 3


def test_what_a_killed_writer_left_of_a_pack_goes_once_its_number_is_taken(tmp_path: Path) -> None:
    store = store_in(Storage(tmp_path))
    for unit in UNITS:
        store.commit([row(unit)])
    folder = tmp_path / "units/ab"
    left = [folder / f".pack-00000{n}.parquet.4711.0a1b2c3d.tmp" for n in (1, 9)]
    for file in left:
        file.write_bytes(b"half")
    compact(store)
    assert [file.exists() for file in left] == [False, True], "the owner of the second may live"


ACTIONS = st.one_of(
    st.tuples(st.just("commit"), st.sampled_from(UNITS)),
    st.tuples(st.just("compact"), st.just("")),
    st.tuples(st.just("kill"), st.integers(0, 40).map(str)),
    st.tuples(st.just("forget"), st.just("")),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ACTIONS, max_size=14))
def test_whatever_happens_the_first_commit_of_a_unit_is_what_is_read(actions: list[tuple[str, str]]) -> None:
    store, first = fresh([]), dict[str, str]()
    for number, (what, detail) in enumerate(actions):
        if what == "commit":
            store.commit([row(detail, f"copy {number}")])
            first.setdefault(detail, f"copy {number}")
        elif what == "forget":
            store = store_in(store.storage.base)
        else:
            act = at(int(detail), die, ever_after=True) if what == "kill" else (lambda: None)
            doing = Compaction(store_in(Watched(store.storage.base, act)))
            with contextlib.suppress(Killed):
                doing.folder("ab")
    for reader in (store, store_in(store.storage.base)):
        assert {unit: reader.read(unit, ["prompt"])["prompt"][0].as_py() for unit in first} == first
        assert reader.done() == set(first)
