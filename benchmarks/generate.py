"""Speed and memory of the samplers, as ratios measured side by side in one run.

    python -m benchmarks.generate                                     the miniature, on this machine
    python -m benchmarks.generate --model PATH_OR_HUB_ID
    python -m benchmarks.generate --random-sdxl full --device cuda    SDXL's real size, random weights

(a) MultiDiffusion against a window-by-window loop as the original runs it, and against bare UNet forwards
(b) the share of time outside UNet, ControlNet, autoencoder and text encoders
(c) MAD against MultiDiffusion with the same windows
(d) peak memory at the scroll's size and at four times its width

Wall time counts waiting for other processes; CPU time counts work (on a GPU only wall time means anything).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.random_sdxl import random_embeddings, random_family  # noqa: E402
from drspo.memory import peak_resident  # noqa: E402
from generate.canvas.noise import initial_noise  # noqa: E402
from generate.canvas.plan import Canvas, canvas_time_ids, plan_canvas  # noqa: E402
from generate.images.vae import decode_scroll  # noqa: E402
from generate.methods.mad import MAD  # noqa: E402
from generate.methods.mad import Config as MADConfig  # noqa: E402
from generate.methods.multidiffusion import Config, MultiDiffusion  # noqa: E402
from generate.models.family import ModelFamily, load_family  # noqa: E402
from generate.models.memory import auto_window_batch  # noqa: E402
from generate.models.prompts import PromptEmbeddings  # noqa: E402
from generate.models.schedulers import make_schedule  # noqa: E402
from generate.models.specs import MODELS  # noqa: E402
from generate.request import Request  # noqa: E402

PROMPT = "a lighthouse on the sea at dusk"


@dataclass
class Seconds:
    """The fastest of several runs of one thing."""

    wall: float = float("inf")
    cpu: float = float("inf")

    def add(self, wall: float, cpu: float) -> None:
        self.wall, self.cpu = min(self.wall, wall), min(self.cpu, cpu)


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak_of(args)))
        return 0
    bench = Bench(args)
    print(bench.headline())
    bench.compare()
    bench.shares()
    if not args.no_memory:
        memory(args, bench.request)
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--random-sdxl", choices=("full", "small"), default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--height", type=int, default=0)
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--window-batch", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak-of", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def open_family(args: argparse.Namespace, control: bool = False) -> ModelFamily:
    if args.random_sdxl:
        return random_family(args.random_sdxl, args.device, args.dtype)
    return load_family(args.model, device=args.device, dtype=args.dtype, controlnet=control)


def embeddings_of(family: ModelFamily, request: Request) -> PromptEmbeddings:
    method = MultiDiffusion(family, Config())
    return method.encode(request) if family.text_encoders else random_embeddings(family)


def request_of(args: argparse.Namespace, family: ModelFamily, widen: int = 1) -> Request:
    height, width = args.height or family.spec.scroll[0], (args.width or family.spec.scroll[1]) * widen
    return Request(
        prompt=PROMPT, height=height, width=width, steps=args.steps, guidance_scale=family.spec.guidance_scale
    )


class Bench:
    """One loaded model and the things that are timed on it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.family = open_family(args, control=not args.random_sdxl and args.model in MODELS)
        self.request = request_of(args, self.family)
        self.text = embeddings_of(self.family, self.request)
        self.multidiffusion = MultiDiffusion(self.family, Config(window_batch=args.window_batch))
        self.mad = MAD(self.family, MADConfig())
        self.canvas = plan_canvas(self.family.spec, Config(), self.request.height, self.request.width)

    def headline(self) -> str:
        device = self.family.device
        where = (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{self.args.threads} CPU threads"
        )
        model = f"random SDXL ({self.args.random_sdxl})" if self.args.random_sdxl else self.args.model
        return (
            f"{model}, {self.request.height}x{self.request.width}, {len(self.canvas.windows)} windows, "
            f"{self.request.steps} steps, {self.family.dtype}, {where}, torch {torch.__version__}, "
            f"{platform.machine()}"
        )

    def compare(self) -> None:
        """Turn and turn about, so that a disturbance hits all; the fastest of each counts."""
        runs: dict[str, Callable[[], Any]] = {
            "window by window": lambda: loop_of_windows(self.family, self.request, self.text),
            "MultiDiffusion": lambda: self.multidiffusion.sample(self.request, embeddings=self.text),
            "bare UNet forwards": self.bare_forwards,
            "MAD": lambda: self.mad.sample(self.request, embeddings=self.text),
        }
        times = {name: Seconds() for name in runs}
        for turn in range(self.args.repeats + 1):
            for name, run in runs.items():
                wall, cpu = timed(run, self.family.device)
                if turn:  # the first one warms up
                    times[name].add(wall, cpu)
        for name, seconds in times.items():
            print(f"    {name:22s} wall {seconds.wall:8.3f} s   CPU {seconds.cpu:8.3f} s")
        self.ratio(
            "(a) window by window / MultiDiffusion", times["window by window"], times["MultiDiffusion"]
        )
        self.ratio(
            "    MultiDiffusion / bare UNet forwards", times["MultiDiffusion"], times["bare UNet forwards"]
        )
        self.ratio("(c) MAD / MultiDiffusion", times["MAD"], times["MultiDiffusion"])

    def ratio(self, name: str, above: Seconds, below: Seconds) -> None:
        print(f"{name:42s} wall {above.wall / below.wall:6.2f}   CPU {above.cpu / below.cpu:6.2f}")

    @torch.no_grad()
    def bare_forwards(self) -> None:
        """As many UNet evaluations as MultiDiffusion makes, batched alike, with nothing around them."""
        family, (h, w), count = self.family, self.canvas.windows[0].shape, len(self.canvas.windows)
        batch = self.args.window_batch or auto_window_batch(family, (h, w), count)
        forwards, size = -(-count // batch), -(-count // -(-count // batch))
        sample = torch.randn(
            2 * size, family.denoiser.channels, h, w, device=family.device, dtype=family.dtype
        )
        both = torch.cat([self.text.negative_prompt_embeds, self.text.prompt_embeds]).to(
            family.device, family.dtype
        )
        prompt, added = (
            both.repeat_interleave(size, dim=0),
            added_conditions(family, self.text, self.canvas, size),
        )
        for _ in range(self.request.steps * forwards):
            family.unet(sample, 500, prompt, added_cond_kwargs=added, return_dict=False)

    def shares(self) -> None:
        for name, run in self.whole_scrolls().items():
            share = min(outside_share(self.family, run) for _ in range(self.args.repeats))
            print(f"(b) outside the networks, {name:16s} {100 * share:5.1f} % of wall time")

    def whole_scrolls(self) -> dict[str, Callable[[], Any]]:
        runs: dict[str, Callable[[], Any]] = {
            "multidiffusion": lambda: decode_scroll(
                self.family.vae, self.multidiffusion.sample(self.request, embeddings=self.text).latents
            ),
            "mad": lambda: decode_scroll(
                self.family.vae, self.mad.sample(self.request, embeddings=self.text).latents
            ),
        }
        if self.family.controlnet is not None:
            from generate.methods.drspo.two_stage import DRSPO

            drspo = DRSPO(self.family)
            runs["drspo"] = lambda: drspo.generate([self.request])
        return runs


@torch.no_grad()
def loop_of_windows(family: ModelFamily, request: Request, text: PromptEmbeddings) -> torch.Tensor:
    """MultiDiffusion in the manner of its original: each window alone through UNet, CFG and scheduler."""
    canvas = plan_canvas(family.spec, Config(), request.height, request.width)
    scheduler = make_schedule(family, "ddim", request.steps).scheduler
    latents = initial_noise(request.seed, (1, family.denoiser.channels, canvas.height, canvas.width)).to(
        family.device
    )
    prompt = torch.cat([text.negative_prompt_embeds, text.prompt_embeds]).to(family.device, family.dtype)
    added = added_conditions(family, text, canvas, 1)
    for t in scheduler.timesteps:
        value, count = torch.zeros_like(latents), torch.zeros_like(latents)
        for w in canvas.windows:
            view = latents[:, :, w.y0 : w.y1, w.x0 : w.x1]
            both = torch.cat([view] * 2).to(family.dtype)
            u, c = (
                family.unet(both, t, prompt, added_cond_kwargs=added, return_dict=False)[0].float().chunk(2)
            )
            step = scheduler.step(u + request.guidance_scale * (c - u), t, view).prev_sample
            value[:, :, w.y0 : w.y1, w.x0 : w.x1] += step
            count[:, :, w.y0 : w.y1, w.x0 : w.x1] += 1
        latents = torch.where(count > 0, value / count, value)
    return latents


def added_conditions(
    family: ModelFamily, text: PromptEmbeddings, canvas: Canvas, windows: int
) -> dict[str, Any] | None:
    if text.pooled is None or text.negative_pooled is None:
        return None
    ids = canvas_time_ids("window", canvas)
    pooled = torch.cat([text.negative_pooled, text.pooled]).to(family.device, family.dtype)
    return {
        "text_embeds": pooled.repeat_interleave(windows, dim=0),
        "time_ids": ids[:1].repeat(2 * windows, 1).to(family.device, family.dtype),
    }


def timed(run: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """(wall, CPU) seconds of one run."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    synchronise(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def outside_share(family: ModelFamily, run: Callable[[], Any]) -> float:
    """Which part of a run's wall time passes outside the networks."""
    inside = [0.0]
    with timing_networks(family, inside):
        wall, _ = timed(run, family.device)
    return (wall - inside[0]) / wall


@contextmanager
def timing_networks(family: ModelFamily, inside: list[float]) -> Iterator[None]:
    """Adds up the time spent in networks; the autoencoder is timed at its doors, since it runs in strips."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            synchronise(family.device)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            synchronise(family.device)
            inside[0] += time.perf_counter() - start
            return result

        return measured

    with ExitStack() as stack:
        for network in (*family.networks.values(), *family.text_encoders):
            stack.enter_context(mock.patch.object(network, "forward", wrap(network.forward)))
        for door in ("generate.images.vae.decode_latents", "generate.images.vae.encode_images"):
            module, _, name = door.rpartition(".")
            __import__(module)
            stack.enter_context(mock.patch(door, wrap(getattr(sys.modules[module], name))))
        yield


def memory(args: argparse.Namespace, request: Request) -> None:
    """Peaks, each in a process of its own, with the same number of windows per forward."""
    peaks = {widen: in_own_process(args, widen) for widen in (1, 4)}
    for widen, peak in peaks.items():
        print(
            f"(d) {request.height}x{request.width * widen}: {peak['windows']} windows, loaded "
            f"{mib(peak['loaded'])}, "
            f"+ sampling {mib(peak['sampling'] - peak['loaded'])}, "
            f"+ with decoding {mib(peak['all'] - peak['loaded'])}"
        )
    grown = peaks[4]["sampling"] - peaks[1]["sampling"]
    print(f"    four times the width adds {mib(grown)} while sampling")


def mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def in_own_process(args: argparse.Namespace, widen: int) -> dict[str, int]:
    options = [
        "--model",
        args.model,
        "--device",
        args.device,
        "--dtype",
        args.dtype,
        "--height",
        str(args.height),
        "--width",
        str(args.width),
        "--threads",
        str(args.threads),
        "--peak-of",
        str(widen),
        "--window-batch",
        str(args.window_batch),
        "--steps",
        "2",
    ]
    if args.random_sdxl:
        options += ["--random-sdxl", args.random_sdxl]
    done = subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE, text=True)
    peaks: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def peak_of(args: argparse.Namespace) -> dict[str, int]:
    """Bytes after loading, and the peaks while sampling and decoding a scroll that many times as wide."""
    family = open_family(args)
    narrow, request = request_of(args, family), request_of(args, family, args.peak_of)
    text = embeddings_of(family, request)
    count = len(plan_canvas(family.spec, Config(), narrow.height, narrow.width).windows)
    batch = args.window_batch or min(8, count)
    loaded = reset_peak(family.device)
    sampled = MultiDiffusion(family, Config(window_batch=batch)).sample(request, embeddings=text)
    sampling = peak(family.device)
    decode_scroll(family.vae, sampled.latents)
    return {
        "loaded": loaded,
        "sampling": sampling,
        "all": peak(family.device),
        "windows": sampled.facts["windows"],
    }


def reset_peak(device: torch.device) -> int:
    """Forgets earlier peaks (a process's own is that of loading, or its parent's); the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak(device: torch.device) -> int:
    """The largest number of bytes in use since `reset_peak` (on a CPU: Linux only)."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else peak_resident()


if __name__ == "__main__":
    raise SystemExit(main())
