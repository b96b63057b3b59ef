"""The card's YAML head: what the Hub files the data set under, where its splits are, and their columns."""

from __future__ import annotations

from typing import Any

import yaml

from dataset_builder.layouts import CONFIGS, columns_of
from drspo.files.parquet import open_parquet
from drspo.files.run import RunDir
from pipeline.records import PICKAPIC
from pipeline.settings import ExportSettings
from pipeline.shards import SPLITS

README = "README.md"
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


def about_run(names: list[str], settings: ExportSettings) -> bytes:
    """The README of a run folder, by which `datasets` finds its pairs among all that lies there."""
    shards = by_config(names, settings.pickapic)
    facts = {"configs": [_config_entry(config, names, "export/") for config, names in shards.items()]}
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n\n{_ABOUT_RUN}".encode()


_ABOUT_RUN = """# A run of the dataset builder

The lines above tell `datasets.load_dataset`, given this folder, where the pairs are. Written anew with every
export; the data set's card is made by `drspo publish`.
"""


def by_config(names: list[str], pickapic: bool) -> dict[str, list[str]]:
    """The shards of each configuration that an export has, of the names of all shards."""
    found = {
        config: sorted(name for name in names if name.startswith(f"{folder}/"))
        for config, folder in CONFIGS.items()
        if pickapic or config != "pickapic"
    }
    return {config: of_config for config, of_config in found.items() if of_config}


def _config_entry(config: str, names: list[str], prefix: str = "") -> dict[str, Any]:
    """Where a config's splits are. The count in the pattern keeps shards of another export out."""
    folder, files = CONFIGS[config].removeprefix("export/"), []
    for split, of_split in by_split(names).items():
        ending = of_split[0].rpartition("-of-")[2]
        files.append({"split": split, "path": f"{prefix}{folder}/{split}-*-of-{ending}"})
    entry: dict[str, Any] = {"config_name": config, "data_files": files}
    if config == "pickapic":
        entry["columns"] = list(PICKAPIC)
    return {**entry, "default": True} if config == "default" else entry


def _info(run: RunDir, config: str, names: list[str]) -> dict[str, Any]:
    """Columns and rows of a config, and the bytes of its files, from the shards' footers."""
    import datasets

    splits, features, total = [], None, 0
    for split, of_split in by_split(names).items():
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
    kept = columns_of(config, list(features or ()))
    columns = datasets.Features({name: features[name] for name in kept})._to_yaml_list() if features else []
    return {"config_name": config, "features": columns, "splits": splits, "dataset_size": total}


def by_split(names: list[str]) -> dict[str, list[str]]:
    """The shards of each split that there are any of."""
    split_of = {name: name.rpartition("/")[2].partition("-")[0] for name in names}
    found = {split: sorted(name for name in names if split_of[name] == split) for split in SPLITS}
    return {split: of_split for split, of_split in found.items() if of_split}
