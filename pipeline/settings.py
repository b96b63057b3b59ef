"""The settings of phases 4 to 6: what to generate, how to score, guard, pair and export it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from drspo.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CandidateSettings:
    """The images that are made of each prompt: every generator with every seed."""

    model: str = "miniature"
    """A model preset (miniature, sdxl), a Hub id or a folder; empty when the generators are plugins
    that load their own."""
    generators: tuple[str, ...] = ("multidiffusion", "sdxl", "mad")
    """Registered names, or module:Class."""
    seeds: int = 2
    """Images per generator and prompt."""
    height: int = 128
    """Pixels."""
    width: int = 512
    """Pixels."""
    steps: int = 20
    """Denoising steps."""
    guidance_scale: float = 5.0
    """Classifier-free guidance."""
    negative_prompt: str = ""
    """The same for every prompt."""
    options: tuple[str, ...] = ()
    """Settings of single generators as name.key=value, for example mad.threshold=10."""
    prompts_per_unit: int = 1
    """Prompts that share one unit file: 1 on a laptop, up to 6 on a cluster (50 to 250 MB a file)."""
    encoding: Literal["webp-lossless", "jpeg95-444", "png"] = "webp-lossless"
    """How images are stored; the scorer sees the decoded stored bytes."""
    min_candidates: int = 2
    """A prompt with fewer good images than this is dead."""


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """The scorers and measures that look at every candidate."""

    scorers: tuple[str, ...] = ("aesthetic",)
    """Registered scorers or measures, or module:Class. The first one ranks the group. One scorer may stand
    here twice under a name of its own: aesthetic near=aesthetic."""
    options: tuple[str, ...] = ()
    """Settings of single scorers as name.key=value, for example near.view=windows."""

    @property
    def named(self) -> dict[str, str]:
        """Each scorer by the name that options and, without its module, its column have. UserError for a name
        that cannot be a column's."""
        found: dict[str, str] = {}
        for entry in self.scorers:
            name, given, target = entry.partition("=")
            if given and not (name.isidentifier() and target):
                hint = "write name=scorer; a name has letters, digits and underscores"
                raise UserError(f"{entry!r} does not name a scorer", "scoring.scorers", hint)
            found[name] = target or name
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the score columns, in order. UserError when two are equal."""
        return short_names([entry.partition("=")[0] for entry in self.scorers])


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """How long a prompt may take, and how often it may take a worker down."""

    deadline: float = 1800.0
    """Seconds for one prompt in one stage; past it the worker is ended and the prompt counted."""
    attempts: int = 2
    """Times a prompt may crash or hang a worker before it is set aside as dead."""


@dataclass(frozen=True, kw_only=True)
class ResourceSettings:
    """The actors of the Ray executor. Fractions of a GPU are bookkeeping: nothing limits its memory."""

    generator_actors: int = 0
    """Generator actors; 0 is one per GPU share, or one where there is no GPU."""
    scorer_actors: int = 1
    """Scorer actors."""
    generator_gpus: float = 0.0
    """GPU share of a generator actor."""
    scorer_gpus: float = 0.0
    """GPU share of a scorer actor."""
    actor_cpus: float = 0.5
    """Logical CPU share of an actor."""
    in_flight: int = 1
    """Units queued at an actor; 2 hides the transfer of large rows."""
    object_store_mb: int = 0
    """Object store of a Ray that we start ourselves; 0 chooses by memory and /dev/shm."""
    restarts: int = 3
    """Times the phase is started again after a failure of the infrastructure."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Which candidates of a group become (chosen, rejected), from scores alone."""

    method: Literal["best_worst", "all", "adjacent", "top_k_bottom_k"] = "best_worst"
    """The paper pairs the best with the worst of each group."""
    k: int = 1
    """For top_k_bottom_k."""
    min_margin: float = 0.0
    """Least difference of the score; ties are never paired."""
    weights: tuple[str, ...] = ()
    """The score as a weighted sum: scorer=weight, for example aesthetic=1, surplus=-0.5.
    Empty: the first scorer alone, as in the paper."""
    normalise: Literal["raw", "zscore"] = "raw"
    """Whether the summed scores are standardised over the run first."""
    balance: Literal["none", "same_generator", "equal_wins"] = "none"
    """same_generator pairs only images of one generator; equal_wins keeps, of each generator, as many
    wins as the one that wins least, those of largest margin."""
    validation_fraction: float = 0.05
    """Share of the prompts whose pairs form the validation split."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The shards."""

    shard_mb: int = 500
    """Image bytes in a shard."""
    row_group_mb: int = 100
    """Image bytes in a row group; the Hub's viewer refuses more than 300."""
    pickapic: bool = True
    """Write the pickapic config too (every image once more)."""


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Registered names as they are, and the class of a module:Class plugin. UserError when two are equal."""
    short = tuple(name.rpartition(":")[2] for name in names)
    if len(set(short)) < len(short):
        raise UserError(f"a name is used twice: {', '.join(short)}")
    return short


def options_of(options: tuple[str, ...], name: str) -> dict[str, Any]:
    """The settings meant for `name` among name.key=value entries; values are YAML scalars."""
    found: dict[str, Any] = {}
    for entry in options:
        path, equals, value = entry.partition("=")
        owner, dot, key = path.rpartition(".")
        if not (equals and dot and owner and key):
            raise UserError(f"{entry!r} is not name.key=value", "options")
        if owner == name:
            found[key] = yaml.safe_load(value)
    return found


def check_options(options: tuple[str, ...], names: tuple[str, ...], where: str) -> None:
    """Raise UserError for an option of something that is not used: it would change nothing."""
    for entry in options:
        owner = entry.partition("=")[0].rpartition(".")[0]
        if owner not in names:
            raise UserError(f"{entry!r} sets an option of {owner!r}, which this run does not use", where)
