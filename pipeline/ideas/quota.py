"""So many prompts as were asked for: the first that pass all filters; the rest leave with that reason."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records import DROPPED, OK

SURPLUS = "surplus"


def keep_first(table: pa.Table, most: int, before: int = 0) -> pa.Table:
    """The table, in which accepted rows beyond the first `most` are dropped as surplus; 0 keeps all.

    `before` have been accepted in earlier blocks.
    """
    accepted = pc.equal(table["status"], OK)
    surplus = pc.and_(accepted, pc.greater(pc.cumulative_sum(accepted.cast(pa.int64())), most - before))
    if not most or not pc.any(surplus).as_py():
        return table
    for name, value in (("status", DROPPED), ("reason", f"{SURPLUS}: {most} prompts were asked for")):
        column = pc.if_else(surplus, pa.scalar(value, pa.string()), table[name])
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table
