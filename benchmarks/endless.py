"""Memory and joins of an endless scroll, on the miniature.

    python -m benchmarks.endless [--steps 2] [--method drspo] [--widths 512 8192]

Each width is painted by a process of its own, the first one whole, as ever, and longer ones strip by strip
(`--endless`): 128 x 512 and 128 x 8192 have the proportions of 1024 x 4096 and 1024 x 65536. Prints the
largest resident memory of each, beside that of a process which has loaded the model and painted nothing, the
ratio, and how far the joins between strips stand out by `seam`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from drspo.memory import peak_resident

HEIGHT, OWN = 128, 512


def main() -> None:
    """Paints every width and prints what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--method", default="drspo")
    parser.add_argument("--widths", type=int, nargs="+", default=[OWN, 16 * OWN])
    parser.add_argument("--paint", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="keep the scrolls in this folder")
    options = parser.parse_args()
    if options.paint is not None:
        print(paint(options, options.paint))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.out = options.out or Path(folder)
        base = peak(options, 0)
        peaks = [peak(options, width) for width in options.widths]
        print(f"{options.method}, {options.steps} steps; loaded only: {base:.0f} MiB")
        for width, most in zip(options.widths, peaks, strict=True):
            ratio, more = most / peaks[0], (most - base) / (peaks[0] - base)
            print(f"  {HEIGHT}x{width}: {most:.0f} MiB, {ratio:.3f} of the first; above loading {more:.2f}")
            if width > OWN:
                report_joins(options.out / f"{width}.png", width)


def peak(options: argparse.Namespace, width: int) -> float:
    """MiB at most, of a process that paints this width."""
    flags = ["--steps", str(options.steps), "--method", options.method, "--out", str(options.out)]
    command = [sys.executable, "-m", "benchmarks.endless", "--paint", str(width), *flags]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def paint(options: argparse.Namespace, width: int) -> float:
    """Paints one scroll as the command does, or for 0 only loads the model; MiB at most."""
    from generate.program.command import main as generate
    from generate.program.session import Setup, open_session

    if width == 0:
        open_session(Setup(model="miniature", method=options.method))
    else:
        longer = ["--endless"] if width > OWN else []
        out = str(options.out / f"{width}.png")
        sizes = ["--width", str(width), "--steps", str(options.steps), "--method", options.method]
        generate(["a pine tree in the snow at dusk", *sizes, *longer, "--out", out, "--overwrite"])
    return peak_resident() / 2**20


def report_joins(path: Path, width: int) -> None:
    """How far the columns where strips meet stand out, and how far any other does."""
    from drspo.files.pictures import read_picture
    from eval.metrics.seams import seam_strength
    from generate.canvas.strips import strips_to_right
    from generate.models.specs import MODELS

    strength = seam_strength(np.asarray(read_picture(path)))
    joins = [
        strip.start for strip in strips_to_right(MODELS["miniature"], HEIGHT, OWN, width - OWN, fixed=False)
    ]
    at = [float(strength[x - 3 : x + 4].max()) for x in joins]
    rest = np.delete(strength, [c for x in joins for c in range(x - 3, x + 4)])[20:-20]
    print(
        f"    {len(at)} joins: median {np.median(at):.2f}, at most {max(at):.2f}; elsewhere {rest.max():.2f}"
    )


if __name__ == "__main__":
    main()
