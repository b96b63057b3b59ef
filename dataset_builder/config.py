"""What `dataset_builder` can be asked: one nested dataclass, and which part of it identifies a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dataset_builder.rates import Rates
from drspo.config import config_hash, to_dict
from drspo.files.storage import Storage
from drspo.llm.settings import LLMSettings, identity
from drspo.ranges import Natural, Share
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.ideas.origin import taken_from
from pipeline.ideas.sources import PromptSettings
from pipeline.pairs.columns import read_about
from pipeline.settings import (
    CandidateSettings,
    ExportSettings,
    GuardSettings,
    PairSettings,
    ResourceSettings,
    ScoringSettings,
)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """From prompts to preference pairs."""

    out: str = ""
    """The run folder, or its URL (s3://bucket/run). The same command again continues."""
    executor: Literal["auto", "local", "ray"] = "auto"
    """local: in this process. ray: on actors. auto: ray on a cluster or with several GPUs, else local."""
    until: Literal["prompts", "shards"] = "shards"
    """prompts: stop when they are accepted, before anything is painted; any number of runs can take them with
    --prompts.source RUN."""
    block: Natural = 0
    """Ideas that become prompts together: with so many in a block, the next one is asked while this one is
    painted. 0: all of them are one block."""
    plan: bool = False
    """Say what the run would make and cost, and stop."""
    dead_threshold: Share = 0.01
    """Share of prompts that may be dead before the program ends with exit code 3."""
    accept_unfinished: bool = False
    """Go on to images although the language model left some prompts without an answer."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    expand: ExpandSettings = field(default_factory=ExpandSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    llm: LLMSettings = field(default_factory=LLMSettings)
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    resources: ResourceSettings = field(default_factory=ResourceSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    rates: Rates = field(default_factory=Rates)


def names_llm(config: BuildConfig) -> bool:
    """Whether the settings of the prompts name a language model."""
    return config.expand.expander == "llm" or "llm" in config.filter.filters


def uses_llm(config: BuildConfig) -> bool:
    """Whether the run asks a language model at all: not for prompts that another run has finished."""
    storage = Storage(config.out) if config.out else None
    return names_llm(config) and taken_from(storage, config.prompts.source) is None


def prompts_hash(config: BuildConfig) -> str:
    """A hash of what decides the prompts."""
    asked: dict[str, Any] = {name: to_dict(getattr(config, name)) for name in ("prompts", "expand", "filter")}
    if config.block:  # which prompts share a unit may depend on it
        asked["block"] = config.block
    return config_hash({**asked, "llm": identity(config.llm) if names_llm(config) else {}})


def units_hash(config: BuildConfig) -> str:
    """A hash of what decides a unit's images and scores; it is part of every unit's id."""
    return config_hash({"candidates": to_dict(config.candidates), "scoring": to_dict(config.scoring)})


def pairs_hash(config: BuildConfig) -> str:
    """A hash of what decides pairs and shards. These may change within a run: they cost no image."""
    return config_hash(pairs_settings(config))


def pairs_settings(config: BuildConfig) -> dict[str, Any]:
    """The settings that may change after a run has begun: the next start pairs and exports anew."""
    return {"pairs": to_dict(config.pairs), "export": to_dict(config.export)}


def with_added(scoring: ScoringSettings, storage: Storage, scorers: Sequence[str]) -> dict[str, Any]:
    """The scoring settings that would have made all of these scores at once: `drspo score` added some."""
    added = [read_about(storage, name) for name in scorers if name not in scoring.columns]
    entries = (*scoring.scorers, *(column.scorer for column in added))
    options = (*scoring.options, *(option for column in added for option in column.options))
    return to_dict(replace(scoring, scorers=entries, options=options))


def settings_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The settings behind a run's files: those it was begun with, of pairs and shards the last export's."""
    return {**manifest["config"], **manifest["phases"].get("export", {}).get("settings", {})}


def score_columns(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a run's scores, from its settings as `settings_of` gives them."""
    return ScoringSettings(scorers=tuple(settings["scoring"]["scorers"])).columns


def run_hash(config: BuildConfig) -> str:
    """What a run folder stands for: the hash of its prompts and that of its images, side by side."""
    return f"{prompts_hash(config)}-{units_hash(config)}"


def same_prompts(config: BuildConfig, manifest: Mapping[str, Any]) -> bool:
    """Whether a run's manifest was written for the same prompts, whatever its images are."""
    return str(manifest["config_hash"]).partition("-")[0] == prompts_hash(config)
