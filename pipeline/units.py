"""The commit protocol: one Parquet file per unit, named by its unit id, created only if absent.

The name says everything that a resume needs, so finding what is done is one listing. Two copies of
a job, or a zombie worker, can at worst make the same unit twice; the first file stays, whole.
`drspo compact` moves units into packs (`pipeline.packs`). A unit of a pack is done as one with a file is;
what a late worker writes after the unit became part of a pack does not count, though its name was free.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drspo.files.parquet import open_parquet
from drspo.files.storage import Storage
from pipeline.damage import DamagedFile, found_damaged
from pipeline.packs import ENCODING, PACK_FILE, Packs, read_footer
from pipeline.records import UnitRow, unit_rows, unit_schema, unit_table

log = logging.getLogger(__name__)

_LISTINGS = 16  # at once
_COPIED = 1 << 24  # bytes at once
UNIT_FILE = re.compile(r"units/([0-9a-f]{2})/([0-9a-f]{32})\.parquet")


def unit_name(unit_id: str) -> str:
    """The path of a unit's file in the run folder, spread over 256 prefixes."""
    return f"units/{unit_id[:2]}/{unit_id}.parquet"


class UnitIds(Set[str]):
    """Ids of units, at 16 bytes each: what is done of a run of millions is held by whoever paints it."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        data = bytearray()
        for part in parts:
            data += part
        self.ids = np.frombuffer(data, dtype="S16")
        self.ids.sort()

    @classmethod
    def _from_iterable(cls, ids: Iterable[str]) -> Set[str]:  # type: ignore[override]
        return set(ids)

    def __len__(self) -> int:
        return int(self.ids.size)

    def __contains__(self, unit: object) -> bool:
        wanted = np.frombuffer(bytes.fromhex(str(unit)), dtype="S16")[0]
        place = int(np.searchsorted(self.ids, wanted))
        return place < self.ids.size and bool(self.ids[place] == wanted)

    def without(self, others: UnitIds) -> list[str]:
        """Those that are not among the others, which hold most of these."""
        pieces = (
            others.ids[start : start + 4096].tobytes().hex() for start in range(0, others.ids.size, 4096)
        )
        return self.besides([piece[at : at + 32] for at in range(0, len(piece), 32)] for piece in pieces)

    def besides(self, pieces: Iterable[Sequence[str]]) -> list[str]:
        """Those that are in none of the pieces, which hold most of these. A byte is in memory of each."""
        seen = np.zeros(self.ids.size, dtype=bool)
        for units in pieces:
            wanted = np.frombuffer(bytes.fromhex("".join(units)), dtype="S16")
            places = np.searchsorted(self.ids, wanted)
            inside = places < self.ids.size
            places, wanted = places[inside], wanted[inside]
            seen[places[self.ids[places] == wanted]] = True
        return [bytes(each).ljust(16, b"\0").hex() for each in self.ids[~seen].tolist()]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self.ids.size, 4096):
            data = self.ids[start : start + 4096].tobytes().hex()
            yield from (data[at : at + 32] for at in range(0, len(data), 32))


class UnitStore:
    """The units of one run, in files and packs: commit, list, read with every check, move aside."""

    def __init__(self, storage: Storage, config_hash: str, scorers: Sequence[str]) -> None:
        self.storage = storage
        self.config_hash = config_hash
        self.scorers = tuple(scorers)
        self.packs = Packs(storage)

    def commit(self, rows: Sequence[UnitRow]) -> bool:
        """Write the unit's file; False when another worker committed the unit first."""
        return self.create(rows[0].unit_id, encode_unit(unit_table(rows, self.scorers)))

    def create(self, unit_id: str, data: bytes) -> bool:
        """Write an encoded unit's file; False when another worker committed the unit first.

        The name of a unit that became part of a pack is free again: who takes it has lost, and gives it back.
        """
        if not self.storage.create(unit_name(unit_id), data):
            return False
        self.packs.forget(unit_id[:2])
        if not self.packs.name(unit_id):
            return True
        self.storage.delete(unit_name(unit_id))
        return False

    def done(self) -> UnitIds:
        """The ids of all committed units, from the names of files and what packs say they hold."""
        return self.listing()[0]

    def listing(self) -> tuple[UnitIds, list[str]]:
        """(the ids of all committed units, the files under units/ that hold none).

        A folder at a time, several at once: a store lists a thousand names a request, one after the other.
        A pack that does not say what it holds is among the files that hold none.
        """
        units, others = [], []
        with ThreadPoolExecutor(_LISTINGS) as pool:
            for found, strays in pool.map(self._listed, self.storage.level("units/")):
                units.append(found)
                others += strays
        return UnitIds(units), others

    def _listed(self, place: str) -> tuple[bytes, list[str]]:
        """The units' ids, 16 bytes each, and the strays of a folder; a file is one of the two, or a pack."""
        names = self.storage.list(place) if place.endswith("/") else [place]
        ids, others, packed = [], [], False
        for name in names:
            match = UNIT_FILE.fullmatch(name)
            if match and match[2].startswith(match[1]):
                ids.append(match[2])
            elif PACK_FILE.fullmatch(name):
                packed = True
            else:
                others.append(name)
        data = bytes.fromhex("".join(ids))
        if packed:
            shelf = self.packs.load(place.split("/")[1], names)
            data = np.union1d(np.frombuffer(data, dtype="S16"), shelf.ids).tobytes()
            others += shelf.unreadable
        return data, others

    def read(self, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        """The unit's table, or the chosen columns of it. Raises DamagedFile for anything unexpected."""
        try:
            return self.read_from(self.packs.name(unit_id) or unit_name(unit_id), unit_id, columns)
        except FileNotFoundError:
            # Its file has become part of a pack since its folder was looked at, or its pack was moved aside.
            self.packs.forget(unit_id[:2])
            return self.read_from(self.packs.name(unit_id) or unit_name(unit_id), unit_id, columns)

    def read_rows(self, unit_id: str) -> list[UnitRow]:
        """The unit's rows, images included. Raises DamagedFile."""
        return unit_rows(self.read(unit_id))

    def read_from(self, name: str, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        """What a unit's file, or the pack of that name, holds of the unit, checked as by `read`."""
        # Local files are read lazily: the scores of a unit need not pull its images off the disk.
        with self.storage.open(name, "rb") as stream, found_damaged(name):
            options: dict[str, Any] = {"page_checksum_verification": True}
            if PACK_FILE.fullmatch(name):
                footer = self.packs.footer(name, stream)
                if unit_id not in footer.groups:
                    raise DamagedFile(name, "it does not hold a unit that its index says it holds")
                file = open_parquet(stream, name, metadata=footer.metadata, **options)
                take = partial(file.read_row_group, footer.groups[unit_id])
            else:
                file = open_parquet(stream, name, **options)
                take = file.read
            schema = file.schema_arrow
            table = take(columns=columns)
            ids = table if columns is None else take(columns=["unit_id", "config_hash"])
        self._check(name, unit_id, schema, ids)
        return table

    def move_aside(self, name: str, why: str) -> str:
        """Move a file that is not ours, or not whole, into quarantine/; gives its new name.

        Those units of a pack that are whole get files of their own first.
        """
        match = PACK_FILE.fullmatch(name)
        if match and match[3] == "parquet":
            self._unpack(name)
        with self.storage.open(name) as stream, self.storage.explained(name), self.storage.spool() as copy:
            shutil.copyfileobj(stream, copy, _COPIED)
            copy.seek(0)
            digest = hashlib.file_digest(copy, "sha256")  # type: ignore[arg-type]
            target = f"quarantine/{name.replace('/', '_')}.{digest.hexdigest()[:8]}"
            self.storage.put(target, copy)
        self.storage.delete(name)
        if match:
            self.packs.forget(match[1])
        log.warning("%s was moved to %s: %s", name, target, why)
        return target

    def check_pack(self, name: str) -> None:
        """Read all of a pack. Raises DamagedFile, and FileNotFoundError where it is gone."""
        for unit in self._held(name):
            self.read_from(name, unit)

    def _held(self, name: str) -> Iterable[str]:
        with self.storage.open(name) as stream:
            return read_footer(stream, name).groups

    def _unpack(self, name: str) -> None:
        """Write each unit of a pack that can be read to its file, over whatever a late worker left there."""
        units: Iterable[str] = ()
        with contextlib.suppress(DamagedFile):
            units = self._held(name)
        for unit in units:
            with contextlib.suppress(DamagedFile):
                self.storage.write(unit_name(unit), encode_unit(self.read_from(name, unit)))

    def _check(self, name: str, unit_id: str, schema: pa.Schema, ids: pa.Table) -> None:
        if not schema.equals(unit_schema(self.scorers)):
            raise DamagedFile(name, "its columns are not those of this run's units")
        if ids.num_rows == 0 or set(ids["unit_id"].to_pylist()) != {unit_id}:
            raise DamagedFile(name, "it holds another unit than its name says")
        if set(ids["config_hash"].to_pylist()) != {self.config_hash}:
            raise DamagedFile(name, "it was made by another configuration")


def encode_unit(table: pa.Table) -> bytes:
    """The table as Parquet bytes: images are compressed already, so nothing is compressed again."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **ENCODING)
    return buffer.getvalue()


def done_units(storage: Storage) -> UnitIds:
    """The ids of a run's committed units, whatever its configuration."""
    return UnitStore(storage, "", ()).done()
