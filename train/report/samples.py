"""Scrolls drawn during training with fixed prompts and seeds, and the timeline that shows them side by
side."""

import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from drspo.files.pictures import read_picture
from generate.request import Request, build_generator, own
from train.canvas import TrainingCanvas
from train.config import TrainConfig
from train.pairs.prepare import PairSet
from train.report.pictures import save_picture

log = logging.getLogger(__name__)

CELL_WIDTH = 512
LABEL = 16


class Sampler:
    """Draws the configured prompts with the network as it is; stage blueprint whole, stage highres through
    windows."""

    def __init__(
        self,
        family: Any,
        canvas: TrainingCanvas,
        config: TrainConfig,
        held_out: PairSet,
        active: bool,
        writes: bool = True,
    ) -> None:
        self.active, self.writes = active and config.samples.every > 0, writes
        self.config = config.samples
        prompts = list(dict.fromkeys(pair.prompt for pair in held_out.pairs))[: config.samples.count]
        self.prompts = config.samples.prompts or tuple(prompts)
        self.family, self.canvas = family, canvas
        if self.active and not self.prompts:
            log.warning("no samples: give samples.prompts, or hold out pairs")
            self.active = False
        self.method, self.settings = _method(config, canvas, family.spec)

    def draw(self, step: int, out: Path) -> None:
        """Writes OUT/samples/step-NNNNNN/NN.png and brings the timeline up to date; one that does not write
        only takes its part in the network's calls."""
        if not self.active:
            return
        generator = build_generator(self.method, self.family, self.settings)
        self.family.network.eval()
        try:
            with torch.no_grad():
                made = generator.generate([self._request(index) for index in range(len(self.prompts))])
        finally:
            self.family.network.train()
        if not self.writes:
            return
        folder = out / "samples" / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, result in enumerate(made):
            save_picture(result.image, folder / f"{index:02d}.png")
        write_timeline(out / "samples", len(self.prompts))

    def _request(self, index: int) -> Request:
        return Request(
            prompt=self.prompts[index],
            height=self.canvas.height,
            width=self.canvas.width,
            seed=self.config.seed + index,
            steps=self.config.steps,
            guidance_scale=self.config.guidance_scale,
        )


def _method(config: TrainConfig, canvas: TrainingCanvas, spec: Any) -> tuple[str, dict[str, Any]]:
    """The sampler that shows the stage alone, with the windows and micro-conditioning of the training."""
    if config.stage == "blueprint":
        return "direct", {"beyond": True, "long_prompt": "truncate"}
    return "multidiffusion", {
        "window": canvas.windows[0].width * canvas.factor,
        "stride": own(config.canvas.stride, spec.stride),
        "weights": config.canvas.weights,
        "time_ids": config.canvas.time_ids,
        "long_prompt": "truncate",
    }


def write_timeline(folder: Path, columns: int) -> Path | None:
    """One picture of all samples in `folder`: a row per step, a column per prompt; None when there are
    none."""
    steps = sorted(folder.glob("step-*"))
    rows = [[step / f"{index:02d}.png" for index in range(columns)] for step in steps]
    rows = [row for row in rows if all(path.exists() for path in row)]
    if not rows:
        return None
    cells = [[_cell(path) for path in row] for row in rows]
    height = cells[0][0].height + LABEL
    sheet = Image.new("RGB", (CELL_WIDTH * columns, height * len(cells)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (row, pictures) in enumerate(zip(rows, cells, strict=True)):
        pen.text((4, y * height + 2), f"step {int(row[0].parent.name.removeprefix('step-'))}", fill="black")
        for x, picture in enumerate(pictures):
            sheet.paste(picture, (x * CELL_WIDTH, y * height + LABEL))
    path = folder / "timeline.png"
    save_picture(sheet, path)
    return path


def _cell(path: Path) -> Image.Image:
    image = read_picture(path)
    height = max(1, round(image.height * CELL_WIDTH / image.width))
    return image.resize((CELL_WIDTH, height), Image.Resampling.LANCZOS)
