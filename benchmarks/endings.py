"""Short commands on a loaded machine: how many of them end with another code than 0, with ours and without.

    python benchmarks/endings.py RUN [--runs 200] [--busy 4]

Starts `drspo status RUN` and, as what it is compared with, the same function in a plain interpreter, in turns
beside busy loops. Arrow's threads may outlive a plain interpreter, which then aborts in 1 of 25 to 8 of 11.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

OURS = [sys.executable, "-m", "drspo", "status"]
PLAIN = [
    sys.executable,
    "-c",
    "import sys; from dataset_builder.report.status import main; main(sys.argv[1:])",
]


def main() -> None:
    """Prints the two counts side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--busy", type=int, default=4, help="busy loops beside")
    asked = parser.parse_args()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(asked.busy)]
    failed = {"ours": 0, "plain": 0}
    try:
        for _ in range(asked.runs):
            for name, command in (("ours", OURS), ("plain", PLAIN)):
                done = subprocess.run([*command, asked.run], capture_output=True)
                failed[name] += done.returncode != 0
    finally:
        for process in busy:
            process.kill()
    print(f"of {asked.runs} runs each beside {asked.busy} busy loops ended otherwise than with 0:")
    print(f"  drspo status        {failed['ours']}")
    print(f"  plain interpreter   {failed['plain']}")
    sys.exit(failed["ours"] != 0)


if __name__ == "__main__":
    main()
