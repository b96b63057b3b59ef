"""Speed of the samplers in this checkout against another one, as ratios measured turn and turn about.

    git worktree add /tmp/before main
    python -m benchmarks.checkouts /tmp/before
    python -m benchmarks.checkouts /tmp/before --methods mad drspo --steps 10 --turns 12

Each checkout gets a process of its own, which imports that checkout's packages and keeps the model loaded;
both make the same scrolls by the same seeds, and say whether the bytes are the same. The ratio is taken
within each turn, which the host's swings touch least, and the median turn counts, with its quartiles; who
begins alternates. Wall time counts waiting for other processes, CPU time counts work (on a GPU only wall time
means anything).

Networks take nearly all of the time, and a process may be a few per cent faster than another for no reason
that lies in the code. So the time outside the UNet is taken too, with a UNet that answers at once: what it
adds to a scroll is the ratio that code decides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
WORKER = """
import hashlib, json, logging, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
from generate.models.family import load_family
from generate.request import Request, build_generator
asked = json.loads(sys.argv[2])
torch.set_num_threads(asked["threads"])
family = load_family(asked["model"], device=asked["device"], controlnet="drspo" in asked["methods"])
made = {name: build_generator(name, family) for name in asked["methods"]}
spec = family.spec
request = Request(prompt="a lighthouse on the sea at dusk", height=spec.scroll[0], width=spec.scroll[1],
                  steps=asked["steps"], guidance_scale=spec.guidance_scale)
for line in sys.stdin:
    method, stubbed = line.split()
    if stubbed == "stubbed":
        family.unet.forward = lambda sample, *args, **kwargs: (sample * 0.5,)
    wall, cpu = time.perf_counter(), time.process_time()
    scroll = made[method].generate([request])[0]
    spent = [time.perf_counter() - wall, time.process_time() - cpu]
    vars(family.unet).pop("forward", None)
    print(json.dumps(spent + [hashlib.sha256(scroll.image.tobytes()).hexdigest()]), flush=True)
"""


class Checkout:
    """A process that makes scrolls with the packages of one folder."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        command = [sys.executable, "-c", WORKER, str(folder), json.dumps(asked)]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def make(self, method: str, how: str = "real") -> tuple[float, float, str]:
        """(wall seconds, CPU seconds, hash of the picture) of one scroll; the UNet is real or stubbed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{method} {how}\n")
        self.process.stdin.flush()
        wall, cpu, picture = json.loads(self.process.stdout.readline())
        return wall, cpu, picture


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="the other checkout's folder")
    parser.add_argument("--methods", nargs="+", default=["sdxl", "multidiffusion", "mad", "drspo"])
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=6)
    args = parser.parse_args(argv)
    asked = {key: value for key, value in vars(args).items() if key not in ("before", "turns")}
    before, after = Checkout(args.before.resolve(), asked), Checkout(HERE, asked)
    for method in args.methods:
        turns = [turn(before, after, method, index) for index in range(args.turns + 1)][1:]
        wall, cpu = (middle([b[k] / a[k] for a, b in turns]) for k in (0, 1))
        same = "the same bytes" if turns[0][0][2] == turns[0][1][2] else "other bytes"
        print(f"{method:16s} after / before: wall {wall}   CPU {cpu}   {same}")
        whole = min(a[1] for a, _ in turns)
        outside = [min(one.make(method, "stubbed")[1] for _ in range(args.turns)) for one in (before, after)]
        print(
            f"{'':16s} outside the UNet: {1e3 * outside[0]:.0f} and {1e3 * outside[1]:.0f} ms of CPU, "
            f"which makes the scroll's time {1 + (outside[1] - outside[0]) / whole:6.4f}-fold",
            flush=True,
        )
    for checkout in (before, after):
        checkout.process.kill()
    return 0


def turn(before: Checkout, after: Checkout, method: str, index: int) -> tuple[Any, Any]:
    """What one scroll took in each checkout; the second begins every other time."""
    if index % 2:
        second = after.make(method)
        return before.make(method), second
    return before.make(method), after.make(method)


def middle(ratios: list[float]) -> str:
    """The median with the quartiles around it."""
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:5.3f} ({low:5.3f} to {high:5.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
