"""What shows to be wrong with a run's settings without any weights, before the first byte is written."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

from drspo.config import from_dict
from drspo.errors import UserError, did_you_mean
from drspo.options import options_of
from drspo.registry import lookup
from eval.settings import short_names
from pipeline import EXPANDERS, FILTERS
from pipeline.candidates.images import LONGEST
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.settings import CandidateSettings, ResourceSettings, ScoringSettings

log = logging.getLogger(__name__)
ONCE = "Name each generator once: --candidates.seeds says how many images each makes."


def check_generators(settings: CandidateSettings) -> None:
    """UserError for a generator that there is not, its options, and a canvas that it cannot paint."""
    from generate.models.specs import MODELS
    from generate.request import Request, check_request, generator_class

    request = Request(
        prompt="",
        height=settings.height,
        width=settings.width,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
    )
    check_request(request)
    short_names(settings.generators, ONCE)
    images = settings.seeds * len(settings.generators)
    if settings.min_candidates > images:
        hint = f"Each has {images}: seeds x generators."
        where = "candidates.min_candidates"
        raise UserError(f"no prompt can have {settings.min_candidates} good images", where, hint)
    most = LONGEST.get(settings.encoding, 0)
    if 0 < most < max(settings.height, settings.width):
        what = f"{settings.encoding} ends at {most} pixels a side"
        raise UserError(what, "candidates.encoding", "--candidates.encoding png has no end.")
    _check_model(settings.model, MODELS)
    for name in settings.generators:
        cls = generator_class(name)
        asked: Any = from_dict(cls.config_class, options_of(settings.options, name))
        cls.check_settings(asked, request, MODELS.get(settings.model))
        cls.check_weights(asked, MODELS.get(settings.model))


def check_scorers(settings: ScoringSettings) -> None:
    """UserError for a scorer or measure that there is not, and for an option that it does not take."""
    from eval import MEASURES, SCORERS

    for name, target in settings.named.items():
        known = inspect.signature(lookup(SCORERS | MEASURES, target, "scorer")).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            continue
        for key in options_of(settings.options, name):
            if key not in known:
                raise UserError(f"{name} has no option {key!r}", "scoring.options", did_you_mean(key, known))


def check_weights(candidates: CandidateSettings, scoring: ScoringSettings) -> None:
    """UserError for a scorer whose weights or settings do not fit, and for a model that the Hub has not.

    It takes the time of building every scorer, so it is for runs that pay for their prompts first.
    """
    from eval.base import build_scorer, metric_settings, release

    for name, target in scoring.named.items():
        own = metric_settings(
            name, target, model=candidates.model, options=scoring.options, shared={"device": "auto"}
        )
        release(build_scorer(target, own))
    _check_hub(candidates.model)


def _check_hub(model: str) -> None:
    from generate.models.hub import HUB_ID
    from generate.models.specs import MODELS

    source = MODELS[model].base if model in MODELS else model
    asked = None if not source or Path(source).expanduser().exists() else HUB_ID.fullmatch(source)
    if asked is None:
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(try_to_load_from_cache(asked["id"], "model_index.json", revision=asked["revision"]), str):
        return
    try:
        HfApi().model_info(asked["id"], revision=asked["revision"], timeout=20)
    except GatedRepoError as error:
        hint = "Accept its licence there, and set HF_TOKEN."
        what = f"the model {source} asks for a licence to be accepted"
        raise UserError(what, "candidates.model", hint) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"the Hub has no model {source}", "candidates.model", did_you_mean(model, MODELS)
        ) from error
    except Exception as error:  # no network, a proxy, a mirror: it may still be there when it is needed
        log.warning("could not ask the Hub for the model %s before prompts are paid for: %s", source, error)


def check_pools(settings: ResourceSettings) -> None:
    """Raise UserError for pools that no cluster could have."""
    for kind, wanted, most in (
        ("generator", settings.generator_actors, settings.max_generators),
        ("scorer", settings.scorer_actors, settings.max_scorers),
    ):
        if 0 < most < wanted:
            raise UserError(
                f"{wanted} {kind} actors are more than the {most} that there may be at most",
                f"resources.max_{kind}s",
                f"0 lets the pool keep the size of resources.{kind}_actors.",
            )
        parse_label(getattr(settings, f"{kind}_label"))


def parse_label(text: str) -> dict[str, str]:
    """{name: value} of name=value, empty for nothing. UserError for anything else."""
    if not text:
        return {}
    name, equals, value = text.partition("=")
    if not (name and equals and value) or set(text) & set(" ,\"'"):
        raise UserError(f"{text!r} is no label of nodes", hint="For example gpu=big, of ray start --labels.")
    return {name: value}


def check_texts(expand: ExpandSettings, filters: FilterSettings) -> None:
    """UserError for an expander or filter that there is not, and for a vocabulary or template of theirs."""
    lookup(EXPANDERS, expand.expander, "expander")(expand, _nobody)
    for name in filters.filters:
        found = lookup(FILTERS, name, "filter")
        if isinstance(found, type):
            found(filters, _nobody)


def _nobody() -> Any:
    raise UserError("a language model is not asked before the run has begun")


def _check_model(model: str, known: dict[str, Any]) -> None:
    hub = model.count("/") == 1
    if model and model not in known and not hub and not Path(model).expanduser().exists():
        raise UserError(f"there is no model {model!r}", "candidates.model", did_you_mean(model, known))
