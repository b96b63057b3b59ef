"""The card's YAML head: what the Hub files the data set under, where its splits are, and their columns."""

from __future__ import annotations

from typing import Any

import yaml

from drspo.files.parquet import open_parquet
from drspo.files.run import RunDir
from pipeline.shards import SPLITS

CONFIGS = {"default": "data", "pickapic": "pickapic"}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def head(run: RunDir, shards: dict[str, list[str]], pairs: int, licence: str, title: str) -> str:
    """The head as YAML, from the shards of each config and their footers."""
    facts = {
        "license": licence,
        "pretty_name": title,
        "task_categories": ["text-to-image"],
        "size_categories": [next((name for limit, name in _SIZES if pairs < limit), "1M<n<10M")],
        "tags": ["preference", "dpo", "panorama", "scroll", "image", "drspo"],
        "configs": [_config_entry(config, names) for config, names in shards.items()],
        "dataset_info": [_info(run, config, names) for config, names in shards.items()],
    }
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100)


def _config_entry(config: str, names: list[str]) -> dict[str, Any]:
    """Where a config's splits are. The count in the pattern keeps shards of another export out."""
    files = []
    for split, of_split in _by_split(names).items():
        ending = of_split[0].rpartition("-of-")[2]
        files.append({"split": split, "path": f"{CONFIGS[config]}/{split}-*-of-{ending}"})
    entry: dict[str, Any] = {"config_name": config, "data_files": files}
    return {**entry, "default": True} if config == "default" else entry


def _info(run: RunDir, config: str, names: list[str]) -> dict[str, Any]:
    """Columns, rows and bytes of a config, from the shards' footers."""
    import datasets

    splits, features, total = [], None, 0
    for split, of_split in _by_split(names).items():
        rows = size = 0
        for name in of_split:
            with run.open(name) as stream:
                footer = open_parquet(stream, name)
                groups = range(footer.num_row_groups)
                rows += footer.metadata.num_rows
                size += sum(footer.metadata.row_group(index).total_byte_size for index in groups)
                features = features or datasets.Features.from_arrow_schema(footer.schema_arrow)
        splits.append({"name": split, "num_bytes": size, "num_examples": rows})
        total += size
    columns = features._to_yaml_list() if features is not None else []
    return {"config_name": config, "features": columns, "splits": splits, "dataset_size": total}


def _by_split(names: list[str]) -> dict[str, list[str]]:
    split_of = {name: name.rpartition("/")[2].partition("-")[0] for name in names}
    found = {split: sorted(name for name in names if split_of[name] == split) for split in SPLITS}
    return {split: of_split for split, of_split in found.items() if of_split}
