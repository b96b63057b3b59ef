"""Does preference training work? Pairs, a LoRA, held-out accuracy, and scores of fresh scrolls against the
base.

    python -m benchmarks.it_learns --out DIR                     makes its own pairs with the miniature
    python -m benchmarks.it_learns --out DIR --data RUN          takes a run of the dataset builder
    python -m benchmarks.it_learns --out DIR --pairs drawn       quick: drawn scenes against faded copies of
    them

The prompts leave hour and weather open ("a castle in the snow"). These decide most of the miniature's
aesthetic score; a prompt that names them fixes it, and what then differs between seeds is close to noise,
which nothing can learn (docs/performance.md).

With drawn pairs what is preferred is exactly known, colour, so the judge is Hasler and Suesstrunk's measure
of colourfulness instead of the aesthetic scorer.

Prints and writes DIR/it_learns.json: held-out implicit accuracy and winner drift, and the paired score
difference (trained - base, same prompt, same seed) on prompts that no pair was made of, with its 95 %
bootstrap interval. Starting it again goes on where it stopped.
"""

import argparse
import io
import itertools
import json
import statistics
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

from drspo.hashing import seed_from
from drspo.log import progress, setup
from eval.base import build_scorer, metric_settings
from eval.statistics.intervals import mean_by_prompt, paired_difference
from generate.models.family import ModelFamily, load_family
from generate.request import Request, build_generator
from miniature.aesthetics import colourfulness
from miniature.captions import captions
from miniature.paint import paint
from miniature.scene import sample_scene
from train.command import main as train
from train.report.metrics import JsonLines

GROUND_ONLY = 6
"""Which of a scene's captions names neither hour nor weather."""
METHOD = {"blueprint": "direct", "highres": "multidiffusion"}


def main() -> None:
    """Runs all parts and prints the figures."""
    options = parse()
    setup()
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.data or str(make_pairs(options))
    trained = options.out / f"lora-{options.stage}"
    settings = {"config": options.config, "model": options.model, "stage": options.stage}
    settings |= {"data.source": source, "out": trained}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    if train([*flags, *options.flags]):
        raise SystemExit("training failed")
    figures = held_out_figures(trained) | fresh_figures(options, trained)
    (options.out / "it_learns.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


def parse() -> argparse.Namespace:
    """The command line; arguments it does not know go to the trainer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="", help="a run of the dataset builder; empty: make pairs here")
    parser.add_argument("--config", default="miniature", help="preset of the trainer")
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--pairs", choices=("generated", "drawn"), default="generated")
    parser.add_argument("--judge", default="", help="whose aesthetic scorer judges; empty: the model's")
    parser.add_argument("--stage", choices=sorted(METHOD), default="blueprint")
    parser.add_argument("--prompts", type=int, default=100, help="prompts to make pairs of")
    parser.add_argument("--candidates", type=int, default=4, help="images per prompt")
    parser.add_argument(
        "--gap", type=float, default=0.5, help="two of them that score so far apart are a pair"
    )
    parser.add_argument("--fresh", type=int, default=60, help="prompts of the final comparison")
    parser.add_argument("--seeds", type=int, default=2, help="seeds per fresh prompt")
    parser.add_argument("--denoise", type=int, default=12, help="denoising steps of every image here")
    parser.add_argument("--view", default="squash", help="how the scorer sees a long image")
    options, options.flags = parser.parse_known_args()
    return options


def make_pairs(options: argparse.Namespace) -> Path:
    """A Parquet file of best against worst of each prompt's candidates by the aesthetic score."""
    path = options.out / "pairs.parquet"
    if path.exists():
        return path
    family, judge = load_family(options.model), judge_of(options)
    canvas = canvas_of(family, options)
    rows = []
    if options.pairs == "drawn":
        rows = [drawn_row(number, canvas, judge) for number in range(options.prompts)]
    else:
        prompts = open_prompts("train", options.prompts, canvas)
        with progress(len(prompts), "pairs", "prompts") as bar:
            for prompt in prompts:
                seeds = [seed_from(prompt, index) for index in range(options.candidates)]
                images = [draw(family, options, prompt, seed) for seed in seeds]
                rows += pairs_of(prompt, images, judge.score(images, [prompt] * len(images)), options.gap)
                bar.advance()
    gaps = [row["margin"] for row in rows]
    print(f"{len(rows)} pairs, median score gap {statistics.median(gaps):.3f}")
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def drawn_row(number: int, canvas: tuple[int, int], judge: Any) -> dict:
    """A drawn scene, preferred to a copy of it with half its colour."""
    scene = sample_scene(seed_from("it learns", "train", number), *canvas)
    picture = paint(scene)
    grey = picture.mean(axis=2, keepdims=True)
    faded = (0.5 * picture + 0.5 * grey).round().astype(np.uint8)
    images = [Image.fromarray(picture), Image.fromarray(faded)]
    prompt = captions(scene)[0]
    return row_of(prompt, images, judge.score(images, [prompt] * 2))


def open_prompts(kind: str, count: int, canvas: tuple[int, int], without: Collection[str] = ()) -> list[str]:
    """Different captions that name subject, ground and place only, none of them in `without`."""
    found: dict[str, None] = {}
    for number in itertools.count():
        prompt = captions(sample_scene(seed_from("it learns", kind, number), *canvas))[GROUND_ONLY]
        if prompt not in without:
            found[prompt] = None
        if len(found) == count:
            return list(found)
    raise AssertionError("the count is endless")


def pairs_of(prompt: str, images: list[Image.Image], scores: list[float], gap: float) -> list[dict]:
    """Every two candidates whose scores lie at least `gap` apart."""
    return [
        row_of(prompt, [images[first], images[second]], [scores[first], scores[second]])
        for first, second in itertools.combinations(range(len(images)), 2)
        if abs(scores[first] - scores[second]) >= gap
    ]


def row_of(prompt: str, images: list[Image.Image], scores: list[float]) -> dict:
    """Best and worst of these images as a pair in our layout."""
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    return {
        "prompt": prompt,
        "chosen": {"bytes": png(images[best]), "path": None},
        "rejected": {"bytes": png(images[worst]), "path": None},
        "margin": scores[best] - scores[worst],
    }


def png(image: Image.Image) -> bytes:
    """The picture, encoded without loss."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


class Colour:
    """Hasler and Suesstrunk's colourfulness as a scorer: 0 for grey, 40 for moderate, above 80 for vivid."""

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image."""
        return [colourfulness(np.asarray(image.convert("RGB"))) for image in images]


def judge_of(options: argparse.Namespace) -> Any:
    """The aesthetic scorer that belongs to the model, or colour for drawn pairs."""
    if options.pairs == "drawn":
        return Colour()
    model, options_given = options.judge or options.model, (f"aesthetic.view={options.view}",)
    settings = metric_settings("aesthetic", "aesthetic", model=model, options=options_given)
    return build_scorer("aesthetic", settings)


def canvas_of(family: ModelFamily, options: argparse.Namespace) -> tuple[int, int]:
    """Height and width of the stage's scrolls."""
    return family.spec.blueprint if options.stage == "blueprint" else family.spec.scroll


def draw(family: ModelFamily, options: argparse.Namespace, prompt: str, seed: int) -> Image.Image:
    """One scroll of the stage."""
    height, width = canvas_of(family, options)
    request = Request(
        prompt=prompt,
        height=height,
        width=width,
        seed=seed,
        steps=options.denoise,
        guidance_scale=family.spec.guidance_scale,
    )
    return build_generator(METHOD[options.stage], family, {}).generate([request])[0].image


def held_out_figures(trained: Path) -> dict:
    """The last measurement on held-out pairs."""
    last = JsonLines(trained / "validation.jsonl").records()[-1]
    accuracies = ("accuracy", "pair_accuracy")
    names = ("step", "pairs", "loss", *accuracies, "margin", "winner_drift", "winner_drift_share")
    return {"held_out": {name: last[name] for name in names}}


def fresh_figures(options: argparse.Namespace, trained: Path) -> dict:
    """Scores of base and trained model on fresh prompts with the same seeds, and their paired difference."""
    family, judge = load_family(options.model), judge_of(options)
    family.load_lora(trained)
    prompts, scores = [], {"base": [], "trained": []}
    started = time.process_time()
    with progress(options.fresh, "fresh prompts", "prompts") as bar:
        fresh = open_prompts("fresh", options.fresh, canvas_of(family, options), seen_prompts(trained))
        for number, prompt in enumerate(fresh):
            for index in range(options.seeds):
                prompts.append(prompt)
                for name, lora in (("base", None), ("trained", "default")):
                    family.use_lora(lora)
                    image = draw(family, options, prompt, seed_from("fresh", prompt, index))
                    save_first(image, options.out / f"fresh-{number:03d}-{name}.png", number, index)
                    scores[name] += judge.score([image], [prompt])
            bar.advance()
    per_prompt = {name: mean_by_prompt(prompts, values) for name, values in scores.items()}
    arrays = {name: np.array(list(values.values())) for name, values in per_prompt.items()}
    difference = paired_difference(arrays["trained"], arrays["base"]).interval
    means = {name: float(np.nanmean(values)) for name, values in arrays.items()}
    interval = {
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "prompts": difference.n,
    }
    seconds = round(time.process_time() - started)
    return {"fresh": {"score": means, "difference": interval, "seeds": options.seeds, "cpu_seconds": seconds}}


def seen_prompts(trained: Path) -> set[str]:
    """The prompts of the pairs trained or measured on."""
    listing = json.loads((trained / "pairs.json").read_text())
    return {pair["prompt"] for name in ("train", "held_out") for pair in listing[name]}


def save_first(image: Image.Image, path: Path, number: int, index: int) -> None:
    """Keeps a few pictures to look at."""
    if number < 4 and index == 0:
        image.save(path)


if __name__ == "__main__":
    main()
