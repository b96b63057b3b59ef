"""Packs: the units of many files in one Parquet file, a row group each, their ids in its footer.

Packs of a folder are numbered, and each is created only if its number is free, by somebody who knows what all
packs below that number hold. So a unit is in one pack; where a pack was lost, and its number with it, a unit
may be in two, and the lower number counts. Nobody changes a pack. An index says for many packs at once what
their footers say; it can be missing, and packs above its number are in none.
"""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError
from drspo.files.parquet import give_up, open_parquet
from drspo.files.storage import Storage
from pipeline.damage import DamagedFile, found_damaged

# In order of names packs come behind unit files, which are deleted only once their pack is there. So whoever
# lists a folder of an object store page by page meets each unit at least once.
PACK_FILE = re.compile(r"units/([0-9a-f]{2})/pack-([0-9]{6})\.(parquet|index)")
MOST_BYTES = 1 << 30  # some thirty units of lossless scrolls
MOST_UNITS = 256  # whoever reads one parses the footer, which has some two kilobytes for each
ENCODING = {
    "compression": "none",  # images are compressed already
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,
}
_UNITS, _PACKS = b"drspo_units", b"drspo_packs"
_FOOTERS = 16  # that a reader remembers


def pack_name(folder: str, number: int, kind: str = "parquet") -> str:
    """The path of a pack, or of an index of the packs up to that number, in the run folder."""
    return f"units/{folder}/pack-{number:06d}.{kind}"


class PackWriter:
    """A pack, unit by unit, to a file; one unit is in memory."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self.file = file
        self.units: list[str] = []
        self.writer = pq.ParquetWriter(file, schema, **ENCODING)

    def add(self, unit: str, table: pa.Table) -> None:
        """Add a unit as a row group."""
        self.writer.write_table(table, row_group_size=table.num_rows)
        self.units.append(unit)

    @property
    def full(self) -> bool:
        """Whether it has as much as a pack may have."""
        return len(self.units) >= MOST_UNITS or self.file.tell() >= MOST_BYTES

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *_: object) -> None:
        give_up(self.writer)

    def close(self) -> None:
        """End the file."""
        self.writer.add_key_value_metadata({_UNITS: " ".join(self.units)})
        self.writer.close()


@dataclass(frozen=True)
class Footer:
    """What a pack says of itself."""

    metadata: pq.FileMetaData
    groups: dict[str, int]
    """{unit: its row group}."""


def read_footer(stream: BinaryIO, name: str) -> Footer:
    """The footer of a pack. Raises DamagedFile."""
    with found_damaged(name):
        metadata = open_parquet(stream, name).metadata
        units = ((metadata.metadata or {}).get(_UNITS) or b"").decode("ascii").split()
    match = PACK_FILE.fullmatch(name)
    own = re.compile(f"{match[1] if match else ''}[0-9a-f]*")
    if not units or len(set(units)) != metadata.num_row_groups or len(units) != metadata.num_row_groups:
        raise DamagedFile(name, "it does not say which units it holds")
    if not all(len(unit) == 32 and own.fullmatch(unit) for unit in units):
        raise DamagedFile(name, "it holds units of another folder")
    return Footer(metadata, {unit: group for group, unit in enumerate(units)})


@dataclass(frozen=True)
class Shelf:
    """What the packs of one folder hold, at the moment when it was listed."""

    ids: np.ndarray
    """Of all units, 16 bytes each, sorted."""
    numbers: np.ndarray
    """Of the pack of each."""
    packs: tuple[int, ...] = ()
    """The packs that can be read."""
    indexed: frozenset[int] = frozenset()
    """Those that the newest index tells of."""
    indexes: tuple[int, ...] = ()
    """The numbers of all indexes."""
    index: int = 0
    """That of the newest one that can be read; 0 where there is none."""
    unreadable: tuple[str, ...] = ()
    """Packs and indexes whose units cannot be told."""

    def number(self, unit: str) -> int:
        """The number of the unit's pack; 0 when it is in none."""
        wanted = np.frombuffer(bytes.fromhex(unit), dtype="S16")[0]
        place = int(np.searchsorted(self.ids, wanted))
        return int(self.numbers[place]) if place < self.ids.size and self.ids[place] == wanted else 0


def _shelf(held: Iterable[tuple[np.ndarray, np.ndarray]], **facts: Any) -> Shelf:
    """The shelf of ids and their packs' numbers; of a unit's packs the lowest counts."""
    parts = [(np.empty(0, "S16"), np.empty(0, np.int32)), *held]
    ids, numbers = (np.concatenate(each) for each in zip(*parts))
    order = np.lexsort((numbers, ids))
    first = np.unique(ids[order], return_index=True)[1]
    return Shelf(ids[order][first], numbers[order][first], **facts)


class Packs:
    """The packs of a run: which holds a unit. What a folder has is remembered until it is forgotten."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._shelves: dict[str, Shelf] = {}
        self._footers: OrderedDict[str, Footer] = OrderedDict()
        self._lock = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def __reduce__(self) -> tuple[type[Packs], tuple[Storage]]:
        return type(self), (self.storage,)

    def name(self, unit: str) -> str:
        """The name of the pack that holds the unit; "" when none does."""
        folder = unit[:2]
        with self._lock:
            lock = self._locks[folder]
        with lock:
            shelf = self._shelves.get(folder) or self.load(folder)
        number = shelf.number(unit)
        return pack_name(folder, number) if number else ""

    def forget(self, folder: str) -> None:
        """Look anew when a unit of the folder is asked for next."""
        self._shelves.pop(folder, None)

    def load(self, folder: str, names: Sequence[str] | None = None) -> Shelf:
        """What the folder's packs hold now, by a listing of the folder where one is given."""
        for _ in range(8):
            try:
                found = self.storage.list(f"units/{folder}/pack-") if names is None else names
                shelf = self._shelves[folder] = self._load(folder, found)
                return shelf
            except FileNotFoundError:
                names = None  # an index was replaced, or a pack moved aside
        raise UserError("packs of units vanish while they are read", self.storage.url(f"units/{folder}"))

    def footer(self, name: str, stream: BinaryIO) -> Footer:
        """The footer of an opened pack, remembered for the next unit of it."""
        with self._lock:
            if name in self._footers:
                self._footers.move_to_end(name)
                return self._footers[name]
        footer = read_footer(stream, name)
        with self._lock:
            self._footers[name] = footer
            while len(self._footers) > _FOOTERS:
                self._footers.popitem(last=False)
        return footer

    def write_index(self, folder: str, shelf: Shelf) -> bool:
        """Store an index of all packs of a shelf; False when there is one of that number already."""
        ids = [bytes(each).ljust(16, b"\0") for each in shelf.ids.tolist()]
        columns = {"unit_id": pa.array(ids, pa.binary(16)), "pack": pa.array(shelf.numbers, pa.int32())}
        table = pa.table(columns).replace_schema_metadata({_PACKS: " ".join(map(str, shelf.packs))})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        return self.storage.create(pack_name(folder, max(shelf.packs), "index"), buffer.getvalue())

    def _load(self, folder: str, names: Sequence[str]) -> Shelf:
        there: dict[str, list[int]] = {"parquet": [], "index": []}
        for name in names:
            if match := PACK_FILE.fullmatch(name):
                there[match[3]].append(int(match[2]))
        held: list[tuple[np.ndarray, np.ndarray]] = []
        indexed: frozenset[int] = frozenset()
        packs, unreadable, index = [], [], 0
        for number in sorted(there["index"], reverse=True):
            try:
                ids, numbers, indexed = self._index(pack_name(folder, number, "index"))
            except DamagedFile as error:
                unreadable.append(error.name)
                continue
            standing = np.isin(numbers, there["parquet"])  # a damaged pack was moved aside
            held.append((ids[standing], numbers[standing]))
            index = number
            break
        for number in sorted(there["parquet"]):
            name = pack_name(folder, number)
            try:
                if number not in indexed:
                    with self.storage.open(name) as stream:
                        units = read_footer(stream, name).groups
                    ids = np.frombuffer(bytes.fromhex("".join(units)), dtype="S16")
                    held.append((ids, np.full(ids.size, number, np.int32)))
                packs.append(number)
            except DamagedFile:
                unreadable.append(name)
        return _shelf(
            held,
            packs=tuple(packs),
            indexed=indexed,
            indexes=tuple(sorted(there["index"])),
            index=index,
            unreadable=tuple(unreadable),
        )

    def _index(self, name: str) -> tuple[np.ndarray, np.ndarray, frozenset[int]]:
        """(ids, their packs' numbers, all packs that it tells of). Raises DamagedFile."""
        data = io.BytesIO(self.storage.read(name))
        with found_damaged(name):
            table = open_parquet(data, name, page_checksum_verification=True).read()
            told = frozenset(map(int, (table.schema.metadata or {})[_PACKS].split()))
            ids = np.frombuffer(b"".join(table["unit_id"].to_pylist()), dtype="S16")
            numbers = table["pack"].to_numpy()
        if ids.size != numbers.size:
            raise DamagedFile(name, "it is no index of packs")
        return ids, numbers, told
