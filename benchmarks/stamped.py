"""Any training program, with its CPU time noted after every optimiser step.

    python -m benchmarks.stamped STAMPS.json -m MODULE ARGUMENTS...
    python -m benchmarks.stamped STAMPS.json SCRIPT.py ARGUMENTS...

The file holds the process's CPU seconds, all threads together, at the end of each step.
"""

import atexit
import json
import runpy
import sys
import time
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook


def main() -> None:
    """Runs the program as if it had been called itself."""
    place, program, *arguments = sys.argv[1:]
    stamps: list[float] = []
    register_optimizer_step_post_hook(lambda *_: stamps.append(time.process_time()))
    atexit.register(lambda: Path(place).write_text(json.dumps(stamps)))
    if program == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
