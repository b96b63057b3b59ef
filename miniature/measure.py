"""The figures of `miniature/README.md`: `python -m miniature.measure` measures the shipped weights afresh."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline

from miniature import fidelity
from miniature.captions import captions
from miniature.counted import CHOSEN_ON, FOLDER, STUDY, compare
from miniature.detector import Found, count_objects, load_detector
from miniature.fit_autoencoder import psnr, reconstruct
from miniature.fit_upscaler import through
from miniature.paint import paint
from miniature.pictures import BLUEPRINT, FRESH_SEED, SCROLL, SQUARE, to_pictures, to_tensor
from miniature.samples import draw
from miniature.scene import SUBJECTS, Scene, countable, sample_scene

WEIGHTS = Path(__file__).parent / "weights"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Row = tuple[str, str, str]  # what, target, measured
_CHUNK = 25


def fresh(count: int, size: tuple[int, int], start: int = 500_000) -> list[Scene]:
    """Scenes that no training has seen."""
    return [sample_scene(FRESH_SEED + start + index, *size) for index in range(count)]


def reconstruction(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """PSNR at the three sizes that matter."""
    scores = []
    for size in (SQUARE, BLUEPRINT, SCROLL):
        pictures = np.stack([paint(scene) for scene in fresh(count, size)])
        halves = [reconstruct(pipe.vae, part) for part in np.array_split(pictures, max(1, count // 16))]
        scores.append(f"{psnr(pictures, np.concatenate(halves)):.1f} dB at {size[0]} x {size[1]}")
    return ", ".join(scores)


def borders(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """Steps of the border columns and inside, in copies of scenes and of flat pictures."""
    scenes = np.stack([paint(scene) for scene in fresh(count // 2, SQUARE)])
    copies, flat = reconstruct(pipe.vae, scenes), reconstruct(pipe.vae, fidelity.flat_pictures(SQUARE))
    return "scenes {:.1f} / {:.1f}, flat pictures {:.1f} / {:.1f} grey levels".format(
        *fidelity.frame(copies), *fidelity.frame(flat)
    )


def flatness(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """How uneven copies of flat pictures are, and how much of that repeats from latent to latent."""
    flat = reconstruct(pipe.vae, fidelity.flat_pictures(SQUARE))
    return f"{fidelity.spread(flat):.1f} / {fidelity.grid(flat):.1f} grey levels"


def edges(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """How steep subjects' edges are in the copies, as a share of the drawn ones."""
    scores = []
    for size in (SQUARE, BLUEPRINT, SCROLL):
        scenes = fresh(count // 2, size)
        drawn = np.stack([paint(scene) for scene in scenes])
        copies = np.concatenate([reconstruct(pipe.vae, part) for part in np.array_split(drawn, 5)])
        score = fidelity.sharpness(drawn, copies, [countable(scene) for scene in scenes])
        scores.append(f"{score:.2f} at {size[0]} x {size[1]}")
    return ", ".join(scores)


def by_eye(folder: Path, since: int) -> str:
    """The detector against scrolls that were counted by eye, from number `since` on."""
    answers = compare(folder, since=since)
    return "; ".join(
        f"{group} {here.precision:.2f} / {here.recall:.2f} / {here.bias:+.0%}"
        for group, here in ((group, answers[group]) for group in ("suns", "moons", "subjects"))
    )


def retrieval(count: int) -> str:
    """Top-1 among 64 captions, through open_clip's own loader."""
    import open_clip

    from miniature import fit_clip

    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{WEIGHTS / 'clip'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{WEIGHTS / 'clip'}").tokenizer
    return f"{100 * fit_clip.retrieval(model.eval(), tokenizer, max(1, count // 25)):.1f} %"


def detection(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """Precision and recall on drawn scrolls and on the autoencoder's copies of them."""
    from miniature.fit_detector import accuracy

    drawn, copied = accuracy(load_detector(), 2 * count), accuracy(load_detector(), count // 4, pipe.vae)
    return "drawn {:.3f} / {:.3f}, through the autoencoder {:.3f} / {:.3f}".format(*drawn, *copied)


def painted(
    pipe: StableDiffusionXLPipeline, size: tuple[int, int], count: int
) -> list[tuple[Scene, list[Found]]]:
    """Fresh captions, painted by the UNet, and what the detector finds in the pictures."""
    scenes, results = fresh(count, size), []
    for start in range(0, count, _CHUNK):
        part = scenes[start : start + _CHUNK]
        pictures = draw(pipe, [captions(scene)[0] for scene in part], size, steps=20, seed=start)
        results += [(scene, count_objects(picture)) for scene, picture in zip(part, pictures, strict=True)]
    return results


def named(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """Squares in which the subject that the caption names is found."""
    hits = [
        any(here.kind == scene.subject for here in found) for scene, found in painted(pipe, SQUARE, count)
    ]
    return f"{sum(hits)} of {count}"


def single(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """Blueprints with exactly one subject of any kind."""
    results = painted(pipe, BLUEPRINT, count)
    one = [sum(here.kind in SUBJECTS for here in found) == 1 for _, found in results]
    right = [
        n and any(here.kind == scene.subject for here in found)
        for n, (scene, found) in zip(one, results, strict=True)
    ]
    return f"{sum(one)} of {count} (the named one: {sum(right)})"


def repeated(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """Scrolls painted by averaged windows that show a subject more than once."""
    scrolls = multidiffusion(pipe, [captions(scene)[0] for scene in fresh(count, SCROLL)])
    counts = [Counter(here.kind for here in count_objects(scroll)) for scroll in scrolls]
    sick = sum(any(found[kind] > 1 for kind in SUBJECTS) for found in counts)
    mean = np.mean([sum(found[kind] for kind in SUBJECTS) for found in counts])
    return f"{sick} of {count} (on average {mean:.1f} subjects)"


@torch.inference_mode()
def multidiffusion(
    pipe: StableDiffusionXLPipeline, texts: list[str], steps: int = 20, stride: int = 4
) -> list[np.ndarray]:
    """One 128 x 512 scroll per text: the plain average of square windows' noise predictions at every step."""
    from miniature.fit_unet import added
    from miniature.pictures import to_pictures

    scrolls = []
    for number, text in enumerate(texts):
        hidden, none, pooled, no_pooled = pipe.encode_prompt(text, device="cpu")
        pipe.scheduler.set_timesteps(steps)
        noise = torch.randn(1, 4, 16, 64, generator=torch.Generator().manual_seed(number))
        latents = noise * pipe.scheduler.init_noise_sigma
        lefts = range(0, 64 - 16 + 1, stride)
        states = torch.cat([none, hidden]).repeat_interleave(len(lefts), 0)
        conditions = added(torch.cat([no_pooled, pooled]).repeat_interleave(len(lefts), 0), SQUARE)
        for time in pipe.scheduler.timesteps:
            shown = pipe.scheduler.scale_model_input(latents, time)
            windows = torch.cat([shown[..., left : left + 16] for left in lefts]).repeat(2, 1, 1, 1)
            empty, asked = pipe.unet(windows, time, states, added_cond_kwargs=conditions).sample.chunk(2)
            latents = pipe.scheduler.step(
                average(empty + 3.0 * (asked - empty), lefts), time, latents
            ).prev_sample
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        scrolls.append(to_pictures(decoded)[0])
    return scrolls


@torch.no_grad()
def doubling(pipe: StableDiffusionXLPipeline, count: int) -> str:
    """PSNR of halved scrolls, through the autoencoder and doubled again: by the upscaler, and plainly."""
    from spandrel import ModelLoader

    network = ModelLoader(device="cpu").load_from_file(WEIGHTS / "upscaler" / "upscaler.safetensors").model
    scores: list[tuple[float, ...]] = []
    for scene in fresh(count, SCROLL):
        sharp = paint(scene)
        small = to_tensor(cv2.resize(sharp, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)[None])
        small = through(pipe.vae, small)
        learned = to_pictures(network.float()((small + 1) / 2) * 2 - 1)[0]
        plain = cv2.resize(to_pictures(small)[0], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        scores.append(tuple(psnr(sharp[None], copy[None]) for copy in (learned, plain)))
    return "{:.1f} dB / {:.1f} dB".format(*np.mean(scores, axis=0))


def average(windows: torch.Tensor, lefts: range) -> torch.Tensor:
    """Windows (count x 4 x 16 x 16) laid at their columns, averaged where they overlap; 1 x 4 x 16 x 64."""
    total, weight = torch.zeros(1, 4, 16, 64), torch.zeros(64)
    for window, left in zip(windows, lefts, strict=True):
        total[..., left : left + 16] += window
        weight[left : left + 16] += 1
    return total / weight


def figures(count: int, keep: Callable[[list[Row]], None]) -> None:
    """Measures line by line; `keep` gets the whole table after each, so a kill loses one line."""
    torch.manual_seed(0)
    pipe = StableDiffusionXLPipeline.from_pretrained(WEIGHTS / "sdxl", torch_dtype=torch.float32)
    flow = StableDiffusion3Pipeline.from_pretrained(
        WEIGHTS / "sd3", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    for each in (pipe, flow):
        each.set_progress_bar_config(disable=True)
    lines: list[tuple[str, str, Callable[[], str]]] = [
        ("autoencoder, PSNR on fresh scenes", "29 dB", lambda: reconstruction(pipe, count)),
        ("its worst border column's step / steps inside", "equal", lambda: borders(pipe, count)),
        ("spread / grid in its copies of flat pictures", "0 / 0", lambda: flatness(pipe, count)),
        ("steepness of subjects' edges against the drawn", "0.9", lambda: edges(pipe, count)),
        ("CLIP, top-1 among 64 fresh captions", "90 %", lambda: retrieval(count)),
        ("detector, precision / recall on fresh scenes", "0.95 / 0.95", lambda: detection(pipe, count)),
        (
            "detector against a count by eye: precision / recall / bias",
            "bias within 10 %",
            lambda: by_eye(STUDY, 0),
        ),
        ("the same on scrolls of an earlier UNet", "bias within 10 %", lambda: by_eye(FOLDER, CHOSEN_ON)),
        ("squares that show the subject they were asked for", "95 of 100", lambda: named(pipe, count)),
        ("blueprints with exactly one subject", "85 of 100", lambda: single(pipe, count)),
        ("MultiDiffusion scrolls that repeat a subject", "most", lambda: repeated(pipe, max(4, count // 8))),
        ("the transformer: squares that show the subject", "70 of 100", lambda: named(flow, count)),
        ("upscaler / bicubic, PSNR on fresh scrolls", "above it", lambda: doubling(pipe, count // 4)),
    ]
    rows = [(what, target, "not measured") for what, target, _ in lines]
    for number, (what, target, measure) in enumerate(lines):
        rows[number] = (what, target, _said(what, measure))
        keep(rows)


def _said(what: str, measure: Callable[[], str]) -> str:
    answer = measure()
    print(f"{what}: {answer}", flush=True)
    return answer


def write(rows: list[Row], readme: Path = README) -> None:
    """Puts the table between the markers of the README."""
    table = [
        "| what | target | measured |",
        "|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(before + BEGIN + "\n" + "\n".join(table) + "\n" + END + after, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m miniature.measure", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--count", type=int, default=100, help="squares and blueprints to paint; others follow from it"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the figures and leave the README as it is"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    figures(chosen.count, (lambda rows: None) if chosen.dry_run else write)


if __name__ == "__main__":
    main()
