"""The data set's card: a README that the Hub, `datasets` and people read, made from the run's own files."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jinja2
import yaml

from dataset_builder.config import score_columns, settings_of
from dataset_builder.report import croissant
from dataset_builder.report.charts import distributions, short
from dataset_builder.report.croissant import CROISSANT
from dataset_builder.report.examples import example_pairs, pair_at
from dataset_builder.report.head import by_config, by_split, head
from dataset_builder.report.judges import who_judged
from dataset_builder.report.stats import STATS_NAME
from drspo import __version__, markup
from drspo.errors import UserError
from drspo.files.incomplete import refuse_incomplete
from drspo.files.run import RunDir
from drspo.files.texts import parse_json
from drspo.leaving import public, public_text, public_wording
from pipeline.candidates.plan import planned_hash
from pipeline.candidates.provenance import read_models, read_scorers
from pipeline.ideas.finished import read_prompts_so_far
from pipeline.ideas.questions import load_template
from pipeline.pairs.columns import column_names, read_about
from pipeline.shards import complete, is_shard
from pipeline.units import UnitStore


@dataclass(frozen=True)
class Sources:
    """What a card is made of: the run's manifest and statistics, and its shards by config."""

    run: RunDir
    manifest: dict[str, Any]
    stats: dict[str, Any]
    shards: dict[str, list[str]]


def read_sources(run: RunDir) -> Sources:
    """The run's facts. Raises UserError when it has no export yet, and when that was interrupted."""
    manifest = run.manifest()
    listed = run.list("export/")
    refuse_incomplete(run, listed)
    names = [name for name in listed if is_shard(name)]
    shards = by_config(names, settings_of(manifest)["export"].get("pickapic", True))
    for of_config in shards.values():
        for of_split in by_split(of_config).values():
            complete(run, of_split)
    if "default" not in shards or not run.exists(STATS_NAME):
        hint = "Run dataset_builder again with the same --out."
        raise UserError("this run has no export to publish yet", run.base, hint)
    stats = parse_json(run.read(STATS_NAME), run.url(STATS_NAME))
    stats = public(stats, hosts=language_hosts(settings_of(manifest)))
    return Sources(run, manifest, stats, shards)


def language_hosts(config: dict[str, Any]) -> tuple[str, ...]:
    """The machine of the language model's server, which errors of a run may name."""
    address = urlsplit(config.get("llm", {}).get("base_url", ""))
    return (address.netloc, address.hostname or "")


def card_files(run: RunDir, repo_id: str, licence: str) -> dict[str, bytes]:
    """{path: bytes} of the card and everything it shows; the same run gives the same bytes."""
    sources = read_sources(run)
    pairs = example_pairs(run, sources.shards["default"])
    files = {"config.yaml": _config(sources.manifest)}
    files |= {f"assets/pair-{number}.webp": image for number, (image, _) in enumerate(pairs, 1)}
    judges, dispute = who_judged(run, sources.shards["default"], settings_of(sources.manifest))
    disputed: dict[str, Any] = {}
    if dispute is not None:
        files["assets/disputed.webp"], facts = pair_at(run, dispute.place)
        disputed = {**facts, "scores": dispute.scores}
    for name, chart in charts(sources.stats["scores"]).items():
        of_each = sources.stats["scores"][name].get("by_generator", {})
        histograms = {who: own.get("histogram", {}) for who, own in of_each.items()}
        files[f"assets/{chart}.svg"] = distributions(short(name), histograms).encode()
    margins = {"chosen minus rejected": sources.stats["margins"].get("histogram", {})}
    files["assets/margins.svg"] = distributions("margin", margins).encode()
    verdicts = {"judges": judges, "disputed": disputed}
    body = _render(sources, repo_id, licence, [facts for _, facts in pairs], verdicts)
    yaml_head = head(run, sources.shards, sources.stats["counts"]["pairs"], licence, _title(repo_id))
    files["README.md"] = f"---\n{yaml_head}---\n\n{body}\n".encode()
    about = body.partition("\n\n")[2].partition("\n\n")[0]
    named = {
        "name": _title(repo_id),
        "repo_id": repo_id,
        "licence": licence,
        "about": " ".join(about.split()),
    }
    files[CROISSANT] = croissant.describe(run, sources.shards, **named)
    return files


def _render(
    sources: Sources, repo_id: str, licence: str, pairs: list[dict[str, Any]], verdicts: dict[str, Any]
) -> str:
    """The card's text. Whatever the template prints is set as text, unless it is code or our own Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dataset_builder.report", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
    )
    markdown = {"code": _as_code, "fenced": _as_block, "html": _as_html, "verbatim": _Markdown}
    environment.filters |= {"short": short, **markdown}
    manifest, config = sources.manifest, public(settings_of(sources.manifest))
    text = environment.get_template("card.md.jinja").render(
        repo_id=_Markdown(repo_id),
        licence=licence,
        title=_title(repo_id),
        stats=sources.stats,
        charts={name: _Markdown(chart) for name, chart in charts(sources.stats["scores"]).items()},
        config=config,
        versions={**manifest["versions"], "drspo": __version__},
        revision=manifest["revision"],
        scorers=score_columns(config),
        scorer_versions=_scorer_versions(sources),
        weights=public(read_models(sources.run)),
        models=_language_models(sources),
        templates=_templates(settings_of(manifest)),
        voted=_voted(sources),
        pairs=pairs,
        **verdicts,
        has=tuple(sources.shards),
        biases=_biases(sources.stats),
        cite_key=_Markdown(re.sub(r"\W+", "_", repo_id.lower())),
    )
    return str(text).strip()


class _Markdown(str):
    """Text that is Markdown already, or stands inside a block of code: printed as it is."""


def _finalize(value: Any) -> Any:
    return value if isinstance(value, _Markdown) or not isinstance(value, str) else markup.inline(value)


def _as_code(text: object) -> _Markdown:
    return _Markdown(markup.code(text))


def _as_html(text: object) -> _Markdown:
    return _Markdown(html.escape(str(text)))


def _as_block(text: str) -> _Markdown:
    return _Markdown(markup.fenced(text, "text"))


def _config(manifest: dict[str, Any]) -> bytes:
    """The configuration that reproduces the run, without the places of this machine."""
    config = public({**settings_of(manifest), "out": "", "until": "shards"})
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()


def _scorer_versions(sources: Sources) -> dict[str, str]:
    """The scorers' versions, those of added columns too."""
    run = sources.run
    store = UnitStore(run, planned_hash(run), score_columns(sources.manifest["config"]))
    added = {name: read_about(run, name).version for name in column_names(run)}
    return {name: public_text(version) for name, version in {**read_scorers(store), **added}.items()}


def _language_models(sources: Sources) -> list[str]:
    """What wrote the prompts: language models by the name that the server gave, or a vocabulary."""
    pairs = {
        (row["expander"], public(row["model"]))
        for piece in read_prompts_so_far(sources.run)
        for row in piece.group_by(["expander", "model"]).aggregate([]).to_pylist()
    }
    return sorted(
        f"{expander} ({model})" if model else expander
        for expander, model in pairs
        if expander not in ("", "none")
    )


def _templates(config: dict[str, Any]) -> list[dict[str, str]]:
    """The messages that went to the language model, in full; the template's name without its folder."""
    asked = ["expand"] if config["expand"]["expander"] == "llm" else []
    asked += ["filter"] if "llm" in config["filter"]["filters"] else []
    found = [load_template(config[part]["template"]) for part in asked]
    texts = [public_wording(f"{each.system}\n\n{each.user}") for each in found]
    return [
        {"name": public(each.name), "hash": each.hash[:12], "text": text}
        for each, text in zip(found, texts, strict=True)
    ]


def _voted(sources: Sources) -> dict[str, int]:
    """How many people's votes made the pairs, and of how many judges; empty where scores did."""
    if settings_of(sources.manifest)["pairs"].get("source") != "votes":
        return {}
    told = sources.run.phases()["export"]
    return {name: int(told.get(name, 0)) for name in ("votes", "judges")}


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


def charts(scores: Iterable[str]) -> dict[str, str]:
    """The file in assets/, without its suffix, for each score's chart: its name, numbered where taken."""
    slugs = {name: _slug(name) for name in scores}
    found: dict[str, str] = {}
    taken = {"margins"}
    for name, slug in slugs.items():
        numbered = (f"{slug}-{number}" for number in itertools.count(2))
        free = (chart for chart in numbered if chart not in taken and chart not in slugs.values())
        found[name] = slug if slug not in taken else next(free)
        taken.add(found[name])
    return found


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", short(name).lower()).strip("-") or "scores"
