"""The contract of a metric, what it is built with, and the presets that go with each model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from drspo.errors import UserError, did_you_mean
from drspo.options import options_of
from drspo.registry import lookup

AGGREGATES = ("mean", "median", "max", "min")
DEFAULTS: dict[str, Any] = {
    "version": "1",
    "revision": "",
    "text_limit": 0,
    "aggregate": "mean",
    "needs_prompt": False,
    "needs_blueprint": False,
}
"""What a metric may leave out, and what is taken then (see `about`)."""


class Missing(float):
    """A number that could not be taken: NaN, with the `reason`."""

    reason: str

    def __new__(cls, reason: str) -> Missing:
        self = super().__new__(cls, "nan")
        self.reason = reason
        return self

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self.reason,)


class Metric(Protocol):
    """Images (and their prompts) to numbers, with everything that names the number.

    Constructors take settings with defaults, find and check every file, and load no network: the first
    `score` does. So all metrics of a benchmark can be built, and what is missing named, before a picture is
    painted. `DEFAULTS` lists further attributes that may be declared: `version` (of the recipe), `revision`
    (of the checkpoint), `text_limit` (tokens), `aggregate` (how a prompt's seeds become one number),
    `needs_prompt`, `needs_blueprint` (then an image's `info["blueprint"]` holds it, where there is one). A
    method `release` frees what `score` loaded.
    """

    name: str
    unit: str
    higher_is_better: bool
    checkpoint: str
    checkpoint_hash: str
    view: str

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One number per image, in order; equal for a batch and for singles up to float rounding.

        NaN says that the number could not be taken: it counts as missing, never as a loss.
        `Missing` says why.
        """
        ...


# What a model's pictures are judged with when the user names only the model. The same names as in
# generate.models.family.MODELS, so that one word chooses painter and judge. A metric's settings go by its
# registered name; `backbone` is for every metric that reads embeddings. Folders stand where a Hub id would.
METRIC_PRESETS: dict[str, dict[str, Any]] = {
    "miniature": {
        "backbone": "miniature",
        "aesthetic": {"head": "miniature"},
        "hps_v2": {"weights": "package:miniature/weights/hps_v2"},
        "hps_v21": {"weights": "package:miniature/weights/hps_v21"},
        "pickscore": {"weights": "package:miniature/weights/pickscore"},
        "image_reward": {"weights": "package:miniature/weights/image_reward"},
    },
    "sdxl": {
        "backbone": "openai-vit-l-14",
        "aesthetic": {"head": "laion-v2-linear"},
        "surplus_photo": {"backbone": "facebook/dinov2-with-registers-base"},
    },
}


def metric_class(target: str) -> Any:
    """The class of the metric `target`: registered, or module:Class; UserError with the nearest name."""
    from eval import METRICS

    return lookup(METRICS, target, "scorer")


def metric_settings(
    name: str,
    target: str,
    *,
    model: str = "sdxl",
    options: Sequence[str] = (),
    shared: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The constructor's arguments of the metric `target` that a configuration calls `name`.

    The model's preset, then `shared` (device, cache), each where the constructor has such a parameter; then
    what `options` say, which must be parameters: UserError with the nearest one otherwise.
    """
    known = inspect.signature(metric_class(target)).parameters
    preset = METRIC_PRESETS.get(model, METRIC_PRESETS["sdxl"])
    general = {"backbone": preset["backbone"], **preset.get(target, {}), **(shared or {})}
    own = options_of(options, name)
    for key in own:
        if key not in known:
            hint = did_you_mean(key, known) or f"It has {', '.join(known) or 'no settings'}."
            raise UserError(f"the scorer {name!r} has no setting {key!r}", f"{name}.{key}", hint)
        _check_kind(own[key], known[key].default, f"{name}.{key}")
    return {key: value for key, value in general.items() if key in known} | own


def _check_kind(value: Any, default: Any, where: str) -> None:
    """Nothing when a setting is of its default's kind; a scorer without a default checks for itself."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    kind = type(default)
    fits = isinstance(value, (int, float) if kind is float else kind) and not (
        isinstance(value, bool) and kind in (int, float)
    )
    if value is None and kind in kinds:
        raise UserError(f"{where} has no value", "", f"write {where}={default}, for example")
    if kind in kinds and not fits:
        hint = f"in YAML's quotes it is one: {where}=\"'{value}'\"" if kind is str else ""
        raise UserError(f"{value!r} is not {kinds[kind]}", where, hint)


def build_scorer(name: str, settings: Mapping[str, Any] | None = None) -> Metric:
    """The metric called `name` (registered, or module:Class), built with `settings` and nothing else."""
    built: Metric = metric_class(name)(**(settings or {}))
    return built


def check_metric(metric: Any, name: str) -> None:
    """Nothing for an object that keeps the contract; UserError naming what it lacks."""
    wanted = ("name", "unit", "higher_is_better", "checkpoint", "checkpoint_hash", "view", "score")
    missing = [key for key in wanted if not hasattr(metric, key)]
    if missing:
        raise UserError(f"the scorer {name!r} lacks {', '.join(missing)}", "", "see eval.base.Metric")
    if about(metric, "aggregate") not in AGGREGATES:
        raise UserError(
            f"the scorer {name!r} aggregates by {metric.aggregate!r}", "", f"one of {', '.join(AGGREGATES)}"
        )


def about(metric: Any, key: str) -> Any:
    """A declared attribute, or its default."""
    return getattr(metric, key, DEFAULTS.get(key))


def release(metric: Any) -> None:
    """Frees what the metric holds, when it can."""
    free = getattr(metric, "release", None)
    if free is not None:
        free()


def check_prompts(prompts: Sequence[str], metric: str) -> None:
    """Nothing when every picture has a prompt; UserError naming the first without."""
    for number, prompt in enumerate(prompts):
        if not prompt.strip():
            raise UserError(
                f"{metric} compares a picture with its prompt, and picture {number} has none",
                "prompts",
                "give it a prompt, or leave this scorer out",
            )


def is_number(value: float) -> bool:
    """Whether a score is there: NaN and infinities are not numbers that can be compared."""
    return math.isfinite(value)
