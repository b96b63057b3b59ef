"""Unit files to packs, folder by folder, at any moment of a run, by any number of processes at once.

A pack is written, read back whole, and only then do the files of its units go. So a kill at any moment leaves
files, or a pack and some of its files, which read alike; whoever compacts next deletes those files. Where two
are at the same folder, the second finds its pack's number taken and looks anew.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import pyarrow as pa

from drspo.errors import UserError
from pipeline.damage import DamagedFile
from pipeline.packs import PACK_FILE, PackWriter, Shelf, pack_name
from pipeline.records import DEAD, unit_schema
from pipeline.units import UNIT_FILE, UnitStore, unit_name

log = logging.getLogger(__name__)

FOLDERS = 4  # at once: each has a unit in memory and a pack on the local disk
_TRIES = 3


@dataclass
class Tally:
    """What a compaction did, and what it left."""

    files: int = 0
    """Unit files that became part of a pack."""
    packs: int = 0
    copies: int = 0
    """Files of units that a pack held already."""
    dead: set[str] = field(default_factory=set)
    """Units whose files stay because a prompt in them is dead."""
    damaged: set[str] = field(default_factory=set)
    """Files that stay because they cannot be read."""


class Compaction:
    """Packs the units of one run."""

    def __init__(self, store: UnitStore) -> None:
        self.store, self.storage, self.packs = store, store.storage, store.packs
        self.tally = Tally()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def folders(self) -> list[str]:
        """The folders of unit files, in an order of this process's own, so that several seldom meet."""
        found = [place.split("/")[1] for place in self.storage.level("units/") if place.endswith("/")]
        folders = [name for name in found if UNIT_FILE.fullmatch(f"units/{name}/{'0' * 32}.parquet")]
        random.shuffle(folders)
        return folders

    def __call__(self, folders: Iterable[str], on_done: Callable[[], object] = lambda: None) -> Tally:
        """Pack what is in the folders. Raises UserError where packs cannot be read back."""
        pool = ThreadPoolExecutor(FOLDERS)
        try:
            for future in as_completed([pool.submit(self.folder, folder) for folder in folders]):
                future.result()
                on_done()
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)
        return self.tally

    def folder(self, folder: str) -> None:
        """Pack the unit files of one folder."""
        for _ in range(_TRIES):
            try:
                while not self._stopped.is_set() and not self._once(folder):
                    log.info("units/%s: another compaction is at work here too", folder)
                return
            except DamagedFile as error:
                self.store.move_aside(error.name, error.why)
        raise UserError("packs are damaged as soon as they are written", self.storage.base, "Check the disk.")

    def _once(self, folder: str) -> bool:
        """One attempt at all of a folder; False when somebody else changed it meanwhile."""
        self.storage.sweep(f"units/{folder}/pack-")
        names = self.storage.list(f"units/{folder}/")
        shelf = self.packs.load(folder, names)
        self.tally.damaged |= set(shelf.unreadable)
        matches = [match for name in names if (match := UNIT_FILE.fullmatch(name))]
        units = [match[2] for match in matches if match[2].startswith(folder)]
        copies: dict[int, list[str]] = {}
        for unit in units:
            copies.setdefault(shelf.number(unit), []).append(unit)
        waiting = deque(self._living(folder, copies.pop(0, [])))
        for number, packed in sorted(copies.items()):
            if not self._finish(pack_name(folder, number), packed):
                return False
            self._count(copies=len(packed))
        number = self._last(folder, shelf)
        while len(waiting) > 1 and not self._stopped.is_set():
            name = pack_name(folder, number + 1)
            made = self._pack(name, waiting)
            if made is None or (made and not self._finish(name, made)):
                return False
            if made:
                number += 1
                self._count(files=len(made), packs=1)
        self._index(folder)
        return True

    def _living(self, folder: str, units: list[str]) -> list[str]:
        """The units none of whose prompts died: what `drspo retry-dead` deletes stays a file of its own."""
        dead = {name.split("/")[1][:32] for name in self.storage.list(f"dead/{folder}")}
        self.tally.dead |= dead & set(units)
        return [unit for unit in units if unit not in dead]

    def _last(self, folder: str, shelf: Shelf) -> int:
        """The highest number that a pack ever had, those that were moved aside included."""
        aside = self.storage.list(f"quarantine/units_{folder}_pack-")
        names = [name.removeprefix("quarantine/").replace("_", "/").rpartition(".")[0] for name in aside]
        matches = (PACK_FILE.fullmatch(name) for name in (*names, *shelf.unreadable))
        found = [int(match[2]) for match in matches if match]
        return max([*shelf.packs, *shelf.indexes, *found], default=0)

    def _pack(self, name: str, waiting: deque[str]) -> list[str] | None:
        """Fill a pack with waiting units; gives those in it, or None when its number is taken."""
        schema = unit_schema(self.store.scorers)
        with self.storage.explained(name), self.storage.spool() as file, PackWriter(file, schema) as writer:
            while waiting and not writer.full:
                unit = waiting.popleft()
                table = self._whole(unit)
                if self._stopped.is_set():
                    return None
                if table is not None:
                    writer.add(unit, table)
            writer.close()
            if len(writer.units) < 2:  # which would not be fewer files
                return []
            return writer.units if self.storage.put_new(name, file) else None

    def _whole(self, unit: str) -> pa.Table | None:
        """What a unit's file holds; None where it is not for a pack, or has gone."""
        try:
            table = self.store.read_from(unit_name(unit), unit)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            self.tally.damaged.add(error.name)
            return None
        if DEAD in table["status"].to_pylist():
            self.tally.dead.add(unit)
            return None
        return table

    def _finish(self, name: str, units: Iterable[str]) -> bool:
        """Delete the files of a pack's units once it is read back; False when it is gone."""
        try:
            self.store.check_pack(name)
        except FileNotFoundError:
            return False
        for unit in units:
            self.storage.delete(unit_name(unit))
        return True

    def _index(self, folder: str) -> None:
        """Index the folder's packs where several are in none, and delete what a newer index replaces."""
        shelf = self.packs.load(folder)
        if len(set(shelf.packs) - shelf.indexed) > 1 and self.packs.write_index(folder, shelf):
            shelf = self.packs.load(folder)
        for number in shelf.indexes:
            if number < shelf.index:
                self.storage.delete(pack_name(folder, number, "index"))
        self.storage.sweep(f"units/{folder}/pack-")

    def _count(self, **added: int) -> None:
        with self._lock:
            for name, count in added.items():
                setattr(self.tally, name, getattr(self.tally, name) + count)
