"""The commit protocol: one Parquet file per unit, named by its unit id, created only if absent.

The name says everything that a resume needs, so finding what is done is one listing. Two copies of
a job, or a zombie worker, can at worst make the same unit twice; the first file stays, whole.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drspo.errors import UserError
from drspo.files.parquet import DAMAGES, open_parquet
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from pipeline.records import UnitRow, unit_rows, unit_schema, unit_table

log = logging.getLogger(__name__)

_LISTINGS = 16  # at once
UNIT_FILE = re.compile(r"units/([0-9a-f]{2})/([0-9a-f]{32})\.parquet")


class DamagedFile(UserError):
    """A file of the run folder that is truncated, foreign, or made by another configuration."""

    def __init__(self, name: str, why: str) -> None:
        hint = "The builder's command moves it aside and makes it anew."
        super().__init__(f"a file of the run is damaged: {why}", name, hint)
        self.name = name
        self.why = why

    def __reduce__(self) -> tuple[type[DamagedFile], tuple[str, str]]:
        return type(self), (self.name, self.why)


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
    """The unit files of one run: commit, list, read with every check, move aside."""

    def __init__(self, storage: Storage, config_hash: str, scorers: Sequence[str]) -> None:
        self.storage = storage
        self.config_hash = config_hash
        self.scorers = tuple(scorers)

    def commit(self, rows: Sequence[UnitRow]) -> bool:
        """Write the unit's file; False when another worker committed the unit first."""
        return self.storage.create(unit_name(rows[0].unit_id), encode_unit(unit_table(rows, self.scorers)))

    def done(self) -> UnitIds:
        """The ids of all committed units, from file names alone."""
        return self.listing()[0]

    def listing(self) -> tuple[UnitIds, list[str]]:
        """(the ids of all committed units, the files under units/ that are none), from names alone.

        A folder at a time, several at once: a store lists a thousand names a request, one after the other.
        """
        units, others = [], []
        with ThreadPoolExecutor(_LISTINGS) as pool:
            for found, strays in pool.map(self._listed, self.storage.level("units/")):
                units.append(found)
                others += strays
        return UnitIds(units), others

    def _listed(self, place: str) -> tuple[bytes, list[str]]:
        """The units' ids, 16 bytes each, and the strays of a folder; a file is one of the two."""
        ids, others = [], []
        for name in self.storage.list(place) if place.endswith("/") else [place]:
            match = UNIT_FILE.fullmatch(name)
            if match and match[2].startswith(match[1]):
                ids.append(match[2])
            else:
                others.append(name)
        return bytes.fromhex("".join(ids)), others

    def read(self, unit_id: str, columns: list[str] | None = None) -> pa.Table:
        """The unit's table, or the chosen columns of it. Raises DamagedFile for anything unexpected."""
        name = unit_name(unit_id)
        # Local files are read lazily: the scores of a unit need not pull its images off the disk.
        with self.storage.open(name, "rb") as stream:
            try:
                file = open_parquet(stream, name, page_checksum_verification=True)
                schema = file.schema_arrow
                table = file.read(columns=columns)
                ids = table if columns is None else file.read(columns=["unit_id", "config_hash"])
            except (UserError, *DAMAGES) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise DamagedFile(name, f"not a whole Parquet file ({error})") from error
        self._check(name, unit_id, schema, ids)
        return table

    def read_rows(self, unit_id: str) -> list[UnitRow]:
        """The unit's rows, images included. Raises DamagedFile."""
        return unit_rows(self.read(unit_id))

    def move_aside(self, name: str, why: str) -> str:
        """Move a file that is not ours, or not whole, into quarantine/; gives its new name."""
        data = self.storage.read(name)
        target = f"quarantine/{name.replace('/', '_')}.{content_hash(data, length=8)}"
        self.storage.write(target, data)
        self.storage.delete(name)
        log.warning("%s was moved to %s: %s", name, target, why)
        return target

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
    pq.write_table(
        table,
        buffer,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return buffer.getvalue()
