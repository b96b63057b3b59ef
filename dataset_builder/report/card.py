"""The data set's card: a README that the Hub, `datasets` and people read, made from the run's own files."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from typing import Any

import jinja2
import pyarrow.parquet as pq
import yaml
from PIL import Image

from dataset_builder.config import score_columns, settings_of
from dataset_builder.report.charts import distributions, short
from dataset_builder.report.stats import STATS_NAME
from drspo import __version__
from drspo.errors import UserError, did_you_mean
from drspo.files.pictures import read_picture
from drspo.files.run import RunDir
from pipeline.candidates.provenance import read_models
from pipeline.llm.questions import Template, load_template
from pipeline.shards import SPLITS, is_shard

CONFIGS = {"default": "data", "pickapic": "pickapic"}
# The Hub's identifiers of the licences that data and images usually carry.
LICENCES = (
    "apache-2.0 mit cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 cc-by-nd-4.0 "
    "openrail openrail++ creativeml-openrail-m bigscience-openrail-m odc-by odbl pddl bsd-3-clause gpl-3.0 "
    "cdla-permissive-2.0 cdla-sharing-1.0 unlicense other"
).split()
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_LONGEST_SIDE = 1600


@dataclass(frozen=True)
class Sources:
    """What a card is made of: the run's manifest and statistics, and its shards by config."""

    run: RunDir
    manifest: dict[str, Any]
    stats: dict[str, Any]
    shards: dict[str, list[str]]


def read_sources(run: RunDir) -> Sources:
    """The run's facts. Raises UserError when it has no export yet."""
    manifest = run.manifest()
    names = [name for name in run.list("export/") if is_shard(name)]
    shards = {
        config: [name for name in names if name.startswith(f"export/{folder}/")]
        for config, folder in CONFIGS.items()
    }
    if not shards["default"] or not run.exists(STATS_NAME):
        hint = "Run dataset_builder again with the same --out."
        raise UserError("this run has no export to publish yet", run.base, hint)
    stats = json.loads(run.read(STATS_NAME))
    return Sources(run, manifest, stats, {config: found for config, found in shards.items() if found})


def check_licence(licence: str) -> str:
    """The licence's identifier as the Hub knows it. Raises UserError for none and for an unknown one."""
    if not licence:
        raise UserError(
            "a data set needs a licence", "--license", f"For example cc-by-4.0. {did_you_mean('', LICENCES)}"
        )
    if licence not in LICENCES:
        raise UserError(f"the Hub knows no licence {licence!r}", "--license", did_you_mean(licence, LICENCES))
    return licence


def card_files(run: RunDir, repo_id: str, licence: str) -> dict[str, bytes]:
    """{path: bytes} of the card and everything it shows; the same run gives the same bytes."""
    sources = read_sources(run)
    gallery = _gallery(sources)
    files = {"config.yaml": _config(sources.manifest)}
    files |= {f"assets/pair-{number}.webp": image for number, (image, _) in enumerate(gallery, 1)}
    for name, figures in sources.stats["scores"].items():
        histograms = {who: own.get("histogram", {}) for who, own in figures.get("by_generator", {}).items()}
        files[f"assets/{_slug(name)}.svg"] = distributions(short(name), histograms).encode()
    margins = {"chosen minus rejected": sources.stats["margins"].get("histogram", {})}
    files["assets/margins.svg"] = distributions("margin", margins).encode()
    body = _render(sources, repo_id, licence, [facts for _, facts in gallery])
    files["README.md"] = f"---\n{_head(sources, licence, repo_id)}---\n\n{body}\n".encode()
    return files


def _render(sources: Sources, repo_id: str, licence: str, pairs: list[dict[str, Any]]) -> str:
    loader = jinja2.PackageLoader("dataset_builder.report", "templates")
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"short": short, "slug": _slug, "cell": _table_cell}
    manifest, config = sources.manifest, settings_of(sources.manifest)
    return (
        environment.get_template("card.md.jinja")
        .render(
            repo_id=repo_id,
            licence=licence,
            title=_title(repo_id),
            stats=sources.stats,
            config=config,
            versions={**manifest["versions"], "drspo": __version__},
            revision=manifest["revision"],
            scorers=score_columns(config),
            scorer_versions=_scorer_versions(sources),
            weights=read_models(sources.run),
            models=_language_models(sources),
            templates=_templates(config),
            pairs=pairs,
            has_pickapic="pickapic" in sources.shards,
            biases=_biases(sources.stats),
            cite_key=re.sub(r"\W+", "_", repo_id.lower()),
        )
        .strip()
    )


def _head(sources: Sources, licence: str, repo_id: str) -> str:
    """The card's YAML: what the Hub files the data set under, and where its splits are."""
    counts = sources.stats["counts"]
    pairs = counts["pairs"]
    head = {
        "license": licence,
        "pretty_name": _title(repo_id),
        "task_categories": ["text-to-image"],
        "size_categories": [next((name for limit, name in _SIZES if pairs < limit), "1M<n<10M")],
        "tags": ["preference", "dpo", "panorama", "scroll", "image", "drspo"],
        "configs": [_config_entry(config, names) for config, names in sources.shards.items()],
        "dataset_info": [_info(sources.run, config, names) for config, names in sources.shards.items()],
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100)


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
                footer = pq.ParquetFile(stream)
                rows += footer.metadata.num_rows
                size += sum(
                    footer.metadata.row_group(i).total_byte_size for i in range(footer.num_row_groups)
                )
                features = features or datasets.Features.from_arrow_schema(footer.schema_arrow)
        splits.append({"name": split, "num_bytes": size, "num_examples": rows})
        total += size
    columns = features._to_yaml_list() if features is not None else []
    return {"config_name": config, "features": columns, "splits": splits, "dataset_size": total}


def _by_split(names: list[str]) -> dict[str, list[str]]:
    split_of = {name: name.rpartition("/")[2].partition("-")[0] for name in names}
    found = {split: sorted(name for name in names if split_of[name] == split) for split in SPLITS}
    return {split: of_split for split, of_split in found.items() if of_split}


def _gallery(sources: Sources) -> list[tuple[bytes, dict[str, Any]]]:
    """Three pairs, of large, middle and small margin: the picture of chosen above rejected, and the facts."""
    wanted = _quantile_pairs(sources, (0.9, 0.5, 0.1))
    columns = ["pair_id", "prompt", "margin", "chosen", "rejected", "chosen_generator", "rejected_generator"]
    columns += ["chosen_score", "rejected_score"]
    rows = {row["pair_id"]: row for row in (_row(sources.run, *wanted[pair], columns) for pair in wanted)}
    return [
        (_stacked(rows[pair]), {k: v for k, v in rows[pair].items() if k not in ("chosen", "rejected")})
        for pair in wanted
    ]


def _quantile_pairs(sources: Sources, quantiles: tuple[float, ...]) -> dict[str, tuple[str, int, int]]:
    """{pair id: (shard, row group, row in it)} of the pairs at these quantiles of the margin."""
    places = []
    for name in sources.shards["default"]:
        with sources.run.open(name) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["pair_id", "margin"]).to_pylist()
                places += [(row["margin"], row["pair_id"], name, group, i) for i, row in enumerate(rows)]
    places.sort()
    picked = [places[min(int(q * len(places)), len(places) - 1)] for q in quantiles] if places else []
    return {pair: (name, group, index) for _, pair, name, group, index in picked}


def _row(run: RunDir, name: str, group: int, index: int, columns: list[str]) -> dict[str, Any]:
    with run.open(name) as stream:
        return dict(
            pq.ParquetFile(stream).read_row_group(group, columns=columns).slice(index, 1).to_pylist()[0]
        )


def _stacked(row: dict[str, Any]) -> bytes:
    images = [read_picture(row[side]["bytes"]) for side in ("chosen", "rejected")]
    width, height = max(i.width for i in images), sum(i.height for i in images)
    sheet = Image.new("RGB", (width, height + 8), "white")
    sheet.paste(images[0], (0, 0))
    sheet.paste(images[1], (0, images[0].height + 8))
    sheet.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=88, method=4)
    return buffer.getvalue()


def _config(manifest: dict[str, Any]) -> bytes:
    """The configuration that reproduces the run, without the places of this machine."""
    config = {**settings_of(manifest), "out": ""}
    prompts = dict(config["prompts"])
    if prompts["source"].startswith(("/", "~", ".")) or "://" in prompts["source"]:
        prompts["source"] = prompts["source"].rpartition("/")[2]
    return yaml.safe_dump({**config, "prompts": prompts}, sort_keys=False, allow_unicode=True).encode()


def _scorer_versions(sources: Sources) -> dict[str, str]:
    """The scorers' versions as the first unit with a score recorded them."""
    for name in sources.run.list("units/"):
        with sources.run.open(name) as stream:
            column = "candidates.list.element.scorer_versions"
            groups = pq.ParquetFile(stream).read(columns=[column]).to_pylist()
        for candidate in (c for group in groups for c in group["candidates"] or []):
            if versions := {k: v for k, v in (candidate["scorer_versions"] or {}).items() if v}:
                return versions
    return {}


def _language_models(sources: Sources) -> list[str]:
    """What wrote the prompts: language models by the name that the server gave, or a vocabulary."""
    with sources.run.open("prompts.parquet") as stream:
        table = pq.read_table(stream, columns=["expander", "model"])
    pairs = {
        (row["expander"], row["model"])
        for row in table.group_by(["expander", "model"]).aggregate([]).to_pylist()
    }
    return sorted(
        f"{expander} ({model})" if model else expander
        for expander, model in pairs
        if expander not in ("", "none")
    )


def _templates(config: dict[str, Any]) -> list[Template]:
    """The messages that went to the language model, in full."""
    asked = ["expand"] if config["expand"]["expander"] == "llm" else []
    asked += ["filter"] if "llm" in config["filter"]["filters"] else []
    return [load_template(config[part]["template"]) for part in asked]


def _biases(stats: dict[str, Any]) -> list[str]:
    """What the figures themselves say about who wins."""
    found = []
    for name, sides in stats["pairs_by_generator"].items():
        total = sides["chosen"] + sides["rejected"]
        share = sides["chosen"] / total if total else 0.5
        if total >= 10 and not 0.25 <= share <= 0.75:
            found.append(f"{short(name)} is the chosen side in {share:.0%} of the pairs it appears in.")
    return found


def _title(repo_id: str) -> str:
    return repo_id.rpartition("/")[2].replace("-", " ").replace("_", " ")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", short(name).lower()).strip("-") or "scores"


def _table_cell(text: str) -> str:
    """A text that cannot break out of a Markdown table or start markup."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", flat)
