"""The shipped cluster configuration is complete, and every option in it exists."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

from dataset_builder.build import check
from dataset_builder.config import BuildConfig
from drspo.config import load
from drspo.registry import lookup
from pipeline.settings import options_of


def test_the_cluster_configuration_loads_and_names_only_what_exists(repository: Path) -> None:
    from eval import MEASURES, SCORERS
    from generate import GENERATORS

    file = str(repository / "configs/cluster.yaml")
    config = load(BuildConfig, ["--config", file, "--out", "s3://b/r"], package="dataset_builder", prog="p")
    check(config)
    for name in config.scoring.scorers:
        known = inspect.signature(lookup(SCORERS | MEASURES, name, "scorer")).parameters
        assert set(options_of(config.scoring.options, name)) <= set(known)
    for name in config.candidates.generators:
        known_fields = {field.name for field in fields(lookup(GENERATORS, name, "method").config_class)}
        assert {"window"} <= known_fields or name == "sdxl"
        assert set(options_of(config.candidates.options, name)) <= known_fields
