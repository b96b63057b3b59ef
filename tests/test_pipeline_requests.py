"""What a unit asks of the store does not grow with the run: counted on a store that answers in pages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dataset_builder.build import stage_spec
from dataset_builder.config import BuildConfig
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from pipeline.candidates.actors import Commit
from pipeline.candidates.guard import Guard
from pipeline.compaction import Compaction
from pipeline.records import DEAD, OK, UnitRow, unit_table
from pipeline.units import UnitIds, encode_unit

PAGE = 10  # names that one answer holds


class CountedStore(MemoryFileSystem):
    """A store in memory that lists by prefix, a page a request, and counts what it is asked."""

    protocol = "counted"
    store: dict[str, Any] = {}
    pseudo_dirs: list[str] = [""]
    requests: Counter[str] = Counter()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return MemoryFileSystem._strip_protocol(path.replace("counted://", "memory://"))

    def find(self, path: str, prefix: str = "", **options: Any) -> list[str]:
        start = f"{self._strip_protocol(path)}/{prefix}"
        found = sorted(name for name in self.store if name.startswith(start))
        self.requests["list"] += max(1, math.ceil(len(found) / PAGE))
        return found

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        found = super().ls(path, detail, **options)
        self.requests["list"] += max(1, math.ceil(len(found) / PAGE))
        return found

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.requests["put"] += 1
        if mode == "create" and path in self.store:
            raise FileExistsError(path)
        super().pipe_file(path, value, **options)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> Any:
        self.requests["get"] += 1
        return super().cat_file(path, start=start, end=end, **options)

    def rm_file(self, path: str) -> None:
        self.requests["delete"] += 1
        super().rm_file(path)


@pytest.fixture
def url(tmp_path: Any) -> Iterator[str]:
    fsspec.register_implementation("counted", CountedStore, clobber=True)
    CountedStore.store.clear()
    yield f"counted://{tmp_path.name}/run"
    CountedStore.store.clear()


def counted(action: Any) -> dict[str, int]:
    CountedStore.requests.clear()
    action()
    return dict(CountedStore.requests)


def row(spec: Any, number: int, status: str) -> dict[str, Any]:
    group = UnitRow(
        unit_id=content_hash(number), prompt_id=content_hash("prompt", number), parent_id="", prompt="a hill",
        status=status, error="none" if status == DEAD else "", config_hash=spec.config_hash,
    )  # fmt: skip
    return {"unit_id": group.unit_id, "data": encode_unit(unit_table([group], spec.scorers)), "seconds": 1.0}


def test_the_thousandth_unit_asks_as_much_of_the_store_as_the_tenth(url: str) -> None:
    spec = stage_spec(BuildConfig(out=url), url)
    commit, guard = Commit(spec), Guard(Storage(url), spec.guard, spec.session)

    def unit(number: int) -> None:
        made = row(spec, number, DEAD if number % 2 else OK)
        with guard.attempt(made["unit_id"], "generate-0"):
            pass
        commit(made)

    asked = [counted(partial(unit, number)) for number in range(1000)]
    assert asked[10] == asked[998] == {"list": 2, "put": 2, "delete": 2}
    assert asked[11] == asked[999] == {"list": 2, "put": 3, "delete": 1}
    assert len(Storage(url).list("dead/")) == 500


def test_whoever_lost_a_unit_takes_back_the_death_it_told_of(url: str) -> None:
    spec = stage_spec(BuildConfig(out=url), url)
    commit = Commit(spec)
    assert commit(row(spec, 1, OK))["won"]
    assert not commit(row(spec, 1, DEAD))["won"]
    assert Storage(url).list("dead/") == []
    assert commit(row(spec, 2, DEAD))["won"] and not commit(row(spec, 2, DEAD))["won"]
    assert not commit(row(spec, 2, OK))["won"]
    assert len(Storage(url).list("dead/")) == 1, "the file that stands is dead, whoever lives"


def test_a_late_death_of_a_unit_that_is_packed_is_taken_back(url: str) -> None:
    spec = stage_spec(BuildConfig(out=url), url)
    commit, compaction = Commit(spec), Compaction(spec.store())
    first = content_hash(1)[:2]
    together = [number for number in range(1000) if content_hash(number).startswith(first)][:2]
    assert all(commit(row(spec, number, OK))["won"] for number in together)
    assert compaction([first]).packs == 1
    assert not commit(row(spec, together[0], DEAD))["won"]
    assert Storage(url).list() == [f"units/{first}/pack-000001.parquet"]
    assert spec.store().read(content_hash(together[0]))["status"].to_pylist() == [OK]


def test_a_prefix_is_listed_by_the_store_and_units_a_folder_at_a_time(url: str) -> None:
    spec = stage_spec(BuildConfig(out=url), url)
    storage, store = Storage(url), spec.store()
    for number in range(300):
        storage.write(f"attempts/{number:03d}.generate-0.json", b"{}")
        store.commit([replace(_group(), unit_id=content_hash(number))])
    assert counted(lambda: storage.list("attempts/123.")) == {"list": 1}
    assert storage.list("attempts/12") == [f"attempts/12{digit}.generate-0.json" for digit in range(10)]
    folders = len(storage.level("units/"))
    assert counted(lambda: store.done())["list"] == math.ceil(folders / PAGE) + folders
    assert store.done() == {content_hash(number) for number in range(300)}


def _group() -> UnitRow:
    return UnitRow(unit_id="", prompt_id="p", parent_id="", prompt="a hill", status=OK, config_hash="c")


def test_ids_of_units_are_a_set_at_sixteen_bytes_each() -> None:
    ids = sorted({content_hash(number) for number in range(500)})
    found = UnitIds([bytes.fromhex("".join(ids[250:])), bytes.fromhex("".join(ids[:250]))])
    assert found == set(ids) and len(found) == 500 and found.ids.nbytes == 500 * 16
    assert list(found) == ids and content_hash("other") not in found
    assert found - set(ids[1:]) == {ids[0]} and not UnitIds([]) and ids[0] not in UnitIds([])
    assert found.besides([ids[3:], ids[:2], [content_hash("other")]]) == [ids[2]]
    assert UnitIds([]).besides([ids]) == [] and found.besides([]) == ids
