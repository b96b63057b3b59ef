"""Model files from the Hub: ids with revisions, what is in the cache already, and why a fetch failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from drspo.errors import UserError, did_you_mean

HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
"""owner/name, or owner/name@revision: a branch, a tag or a commit."""


def at_revision(source: str, revision: str) -> str:
    """A Hub id with this revision, a branch, a tag or a commit, instead of its own; "" leaves it as it is.

    UserError for what has no revisions: folders and packages.
    """
    if not revision:
        return source
    asked = None if Path(source).expanduser().exists() else HUB_ID.fullmatch(source)
    if asked is None:
        raise UserError(f"{source} has no revisions: it is no Hub id", hint="Leave out the revision.")
    return f"{asked['id']}@{revision}"


def download_command(source: str) -> str:
    """The command that fetches a Hub id; "" for what is none."""
    asked = HUB_ID.fullmatch(source)
    if asked is None:
        return ""
    return f"hf download {asked['id']}" + (f" --revision {asked['revision']}" if asked["revision"] else "")


def fetch(
    source: str,
    settings: Sequence[str],
    weights: Sequence[Sequence[str]],
    complete: Callable[[Path], object],
    known: Iterable[str],
) -> Path:
    """The folder of a Hub id, in the Hub's own cache; nothing is asked of the network when all is there.

    `settings` are patterns of files to take, `weights` candidates for each part, of which the first that
    exists is taken; `complete` raises UserError for a folder that lacks something. UserError says what could
    not be had, and how to get it; `known` are the names that a mistyped id may have meant.
    """
    asked = HUB_ID.fullmatch(source)
    if asked is None:
        raise UserError(
            f"{source!r} is neither a model's name, nor a folder, nor a Hub id of the form owner/name.",
            hint=did_you_mean(source, known),
        )
    from huggingface_hub import snapshot_download

    cached = _cached(asked, [*settings, *(name for names in weights for name in names)], complete)
    if cached is not None:
        return cached
    try:
        files = [*settings, *_chosen(asked, weights)]
        return Path(snapshot_download(asked["id"], revision=asked["revision"], allow_patterns=files))
    except Exception as error:  # the client's connection errors share no base class
        raise _unreachable(asked, weights[0][0], error, known) from error


def _cached(asked: re.Match[str], patterns: list[str], complete: Callable[[Path], object]) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            asked["id"], revision=asked["revision"], allow_patterns=patterns, local_files_only=True
        )
        complete(Path(folder))
    except (OSError, ValueError, UserError):
        return None
    return Path(folder)


def _chosen(asked: re.Match[str], weights: Sequence[Sequence[str]]) -> list[str]:
    """Of each part's weights the first candidate that exists, with the shards that an index speaks of."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(asked["id"], revision=asked["revision"])  # one request, no retries
    present = {file.rfilename for file in info.siblings or []}
    chosen = []
    for names in weights:
        name = next((name for name in names if name in present), "")
        if name.endswith(".json"):
            half = ".fp16" if ".fp16." in name else ""
            chosen.append(f"{name.partition('.safetensors')[0]}{half}-*.safetensors")
        if name:
            chosen.append(name)
    return chosen


def _unreachable(asked: re.Match[str], weight: str, error: Exception, known: Iterable[str]) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    source = asked.string
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{source} asks for its licence to be accepted first.",
            hint=f"Accept it at https://huggingface.co/{asked['id']}, then `hf auth login`.",
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"The Hub's {asked['id']} has no revision {asked['revision']}.")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"The Hub has no model {source}, or your token may not see it.",
            hint=f"{did_you_mean(source, known)} A folder on disk works too: give its path.",
        )
    return UserError(
        f"The weights of {source} (for example {weight}) are not on this machine and could not be fetched: "
        f"{type(error).__name__}.",
        hint=f"With a connection: `{download_command(source)}`. "
        "Without: copy the model's folder here and give its path.",
    )
