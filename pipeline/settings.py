"""The settings of phases 4 to 6: what to generate, how to score, guard, pair and export it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from drspo.ranges import Count, Natural, NonNegative, Pixels, Range, Steps
from eval.settings import named, short_names


@dataclass(frozen=True, kw_only=True)
class CandidateSettings:
    """The images that are made of each prompt: every generator with every seed."""

    model: str = "miniature"
    """A model preset (miniature, sdxl), a Hub id or a folder; empty when the generators are plugins
    that load their own."""
    generators: tuple[str, ...] = ("multidiffusion", "sdxl", "mad")
    """Registered names, or module:Class."""
    seeds: Annotated[int, Range(1, 1000)] = 2
    """Images per generator and prompt."""
    height: Pixels = 128
    """Pixels."""
    width: Pixels = 512
    """Pixels."""
    steps: Steps = 20
    """Denoising steps."""
    guidance_scale: Annotated[float, Range(0, 1000)] = 5.0
    """Classifier-free guidance."""
    negative_prompt: str = ""
    """The same for every prompt."""
    options: tuple[str, ...] = ()
    """Settings of single generators as name.key=value, for example mad.threshold=10."""
    prompts_per_unit: Annotated[int, Range(1, 1000)] = 1
    """Prompts that share one unit file: 1 on a laptop, up to 6 on a cluster (50 to 250 MB a file)."""
    encoding: Literal["webp-lossless", "jpeg95-444", "png"] = "webp-lossless"
    """How images are stored; the scorer sees the decoded stored bytes."""
    min_candidates: Count = 2
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
        return named(self.scorers, "scoring.scorers")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the score columns, in order. UserError when two are equal."""
        return short_names([entry.partition("=")[0] for entry in self.scorers])


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """How long a prompt may take, and how often it may take a worker down."""

    deadline: Annotated[float, Range(0, 1e7, open_least=True)] = 1800.0
    """Seconds for one prompt in one stage; past it the worker is ended and the prompt counted."""
    attempts: Annotated[int, Range(1, 1000)] = 2
    """Times a prompt may crash or hang a worker before it is set aside as dead."""


@dataclass(frozen=True, kw_only=True)
class ResourceSettings:
    """The actors of the Ray executor. Fractions of a GPU are bookkeeping: nothing limits its memory."""

    text_actors: Count = 1
    """Actors that expand and filter prompts, a block each at a time; every one has llm.concurrency requests
    under way, and the language model's rates hold for all together."""
    generator_actors: Natural = 0
    """Generator actors; 0 is one per GPU share, or one where there is no GPU."""
    max_generators: Natural = 0
    """Generator actors at most, as nodes join the cluster; 0: as many as at the start."""
    scorer_actors: Count = 1
    """Scorer actors."""
    max_scorers: Natural = 0
    """Scorer actors at most, as nodes join the cluster; 0: as many as at the start."""
    generator_label: str = ""
    """Nodes on which generators may be, as name=value of `ray start --labels`; empty: any."""
    scorer_label: str = ""
    """Nodes on which scorers may be, as name=value of `ray start --labels`; empty: any."""
    generator_gpus: Annotated[float, Range(0, 1000)] = 0.0
    """GPU share of a generator actor."""
    scorer_gpus: Annotated[float, Range(0, 1000)] = 0.0
    """GPU share of a scorer actor."""
    actor_cpus: Annotated[float, Range(0, 1000)] = 0.5
    """Logical CPU share of an actor."""
    in_flight: Annotated[int, Range(1, 1000)] = 1
    """Units queued at an actor; 2 hides the transfer of large rows."""
    object_store_mb: Annotated[int, Range(80, 1 << 30, also=(0,))] = 0
    """Object store of a Ray that we start ourselves; 0 chooses by memory and /dev/shm."""
    restarts: Natural = 3
    """Times the phase is started again after a failure of the infrastructure."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Which candidates of a group become (chosen, rejected), from scores alone."""

    source: Literal["scores", "votes"] = "scores"
    """votes takes what `drspo vote` gathered: every two scrolls that a majority of judges tells apart, with
    the difference of their shares as the margin."""
    method: Literal["best_worst", "all", "adjacent", "top_k_bottom_k", "pareto"] = "best_worst"
    """The paper pairs the best with the worst of each group. pareto: the chosen is no worse by any weighted
    score and better by one, whatever the weights' sizes."""
    k: Count = 1
    """For top_k_bottom_k."""
    most_per_prompt: Natural = 0
    """At most so many pairs of a prompt, those of largest margin; 0: all that the method gives."""
    min_margin: NonNegative = 0.0
    """Least difference of the score; ties are never paired."""
    weights: tuple[str, ...] = ()
    """The score as a weighted sum: scorer=weight, for example aesthetic=1, surplus=-0.5; also of scores that
    `drspo score` added. Empty: the first scorer alone, as in the paper."""
    normalise: Literal["raw", "zscore"] = "raw"
    """Whether the summed scores are standardised over the run first."""
    balance: Literal["none", "same_generator", "equal_wins"] = "none"
    """same_generator pairs only images of one generator; equal_wins keeps, of each generator, as many
    wins as the one that wins least, those of largest margin."""
    validation_fraction: Annotated[float, Range(0, 1, open_most=True)] = 0.05
    """Share of the prompts whose pairs form the validation split."""
    validation_prompts: Natural = 0
    """Hold out exactly so many prompts instead of a share; 0: the share."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The shards."""

    shard_mb: Annotated[int, Range(1, 100_000)] = 500
    """Image bytes in a shard."""
    row_group_mb: Annotated[int, Range(1, 2000)] = 100
    """Image bytes in a row group; the Hub's viewer refuses more than 300."""
    pickapic: bool = True
    """Write caption, jpg_0, jpg_1 and label_0 too, as diffusers' DPO scripts read them (every image once
    more)."""
    ranking: bool = False
    """Write the ranking config too: every image of each prompt, best first, for listwise losses."""
