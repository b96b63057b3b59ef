"""A Parquet file that nobody wants any more leaves nothing that would write to it later."""

import gc
import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drspo.files.parquet import give_up
from pipeline.tables import write_pieces

TABLE = pa.table({"a": [1, 2]})


class FullDisk(io.BytesIO):
    def write(self, data: bytes) -> int:
        raise OSError("no space left")


@pytest.mark.parametrize("closed", [False, True])
def test_a_writer_given_up_says_nothing_when_it_is_collected(closed, monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    file = io.BytesIO()
    writer = pq.ParquetWriter(file, TABLE.schema)
    writer.write_table(TABLE)
    if closed:
        file.close()
    give_up(writer)
    file.close()
    del writer
    gc.collect()
    assert not said


def test_a_full_disk_is_told_once(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(OSError, match="no space left"):
        write_pieces(FullDisk(), TABLE.schema, [TABLE])
    gc.collect()
    assert not said
