"""Does an evaluation of the miniature put its methods in the order that exact counts know?

    python -m benchmarks.headline BENCHMARK

Reads a finished benchmark that has `repeated_objects` beside it, which no headline counts. Of every two
methods that differ clearly in it (after Holm over all pairs) the page's order is right where the one with
fewer stands first; so is the average rank alone, for comparison. What is wrong is named, with the two means.
"""

from __future__ import annotations

import argparse

from drspo.errors import UserError
from drspo.files.run import RunDir
from eval.benchmark.records import read_records
from eval.report.comparison import Comparison
from eval.report.order import clearly_fewer, order
from eval.study.paper import ASIDE

COUNTED = "repeated_objects"


def main() -> None:
    """Reads, compares and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark")
    run = RunDir(parser.parse_args().benchmark)
    run.require("eval")
    records = read_records(run)
    scorers = {record.scorer for record in records}
    if COUNTED not in scorers:
        raise UserError(f"{run.base} has no {COUNTED}, which the miniature's evaluations count")
    found = Comparison(records, records[0].method, aside=[name for name in ASIDE if name in scorers])
    places = {place.method: number for number, place in enumerate(order(found))}
    ranks = {method: standing.rank.mean for method, standing in found.standings.items()}
    counts = {row.method: row.mean for row in found.rows if row.scorer == COUNTED}
    clear = [(few, many) for few, others in clearly_fewer(found, COUNTED).items() for many in others]
    print(f"{len(places)} methods, of which {len(clear)} pairs differ clearly by exact counts")
    for name, standing in (("order", places), ("average rank alone", ranks)):
        wrong = [(few, many) for few, many in clear if standing[few] >= standing[many]]
        print(f"\n{name}: {len(wrong)} of {len(clear)} wrong")
        for few, many in wrong:
            print(f"    {few} ({counts[few].mean:.2f} counted) behind {many} ({counts[many].mean:.2f})")


if __name__ == "__main__":
    main()
