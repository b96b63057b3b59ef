"""Direct sampling against the bare pipeline of diffusers, side by side: `python -m benchmarks.direct`.

Both paint the same request with the same weights, in turns; the ratio is of CPU seconds, so that other
programs on the machine do not count, and the pictures are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from generate.methods.direct import Direct
from generate.models.family import ModelFamily, load_family
from generate.request import Request


def bare(family: ModelFamily, request: Request) -> Any:
    """The published pipeline's picture."""
    return family.pipe(
        request.prompt, height=request.height, width=request.width, num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale, generator=torch.Generator().manual_seed(request.seed),
    ).images[0]  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the call gave."""
    started = time.process_time()
    made = call()
    return time.process_time() - started, made


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.direct", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="miniature-sd3")
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args(arguments)
    family = load_family(chosen.model)
    request = Request(
        prompt="a lighthouse by the sea at dusk", height=chosen.height, width=chosen.width,
        steps=chosen.steps, guidance_scale=family.spec.guidance_scale,
    )  # fmt: skip
    direct = Direct(family)
    ratios = []
    for number in range(chosen.rounds + 1):
        theirs, picture = timed(lambda: bare(family, request))
        ours, made = timed(lambda: direct.generate([request])[0])
        if number:  # the first round warms up
            ratios.append(ours / theirs)
    apart = np.abs(np.asarray(picture, int) - np.asarray(made.image, int)).max()
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"direct / pipeline, CPU seconds: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
    print(f"largest difference of the pictures: {apart} of 255")


if __name__ == "__main__":
    main()
