"""Where a metric's weights lie: a package, a folder, a file or the Hub; and what they are exactly."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from drspo.errors import UserError
from drspo.registry import package_folder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/")


@dataclass(frozen=True)
class Found:
    """One file of a checkpoint on this machine."""

    source: str
    path: Path

    @property
    def revision(self) -> str:
        """The Hub's commit that the file belongs to, or what the source says after @, or nothing."""
        commit = _COMMIT.search(self.path.as_posix())
        return commit[1] if commit else self.source.partition("@")[2]

    @property
    def sha256(self) -> str:
        """The digest of the whole file."""
        state = self.path.stat()
        return file_sha256(str(self.path), state.st_size, state.st_mtime_ns)


def find(source: str, names: Sequence[str], metric: str, *, setting: str = "weights") -> Found:
    """The first of `names` that `source` has: a file, a folder, package:NAME/FOLDER, or owner/name on the
    Hub.

    The Hub's cache is looked into first, so what is there needs no network. UserError that names the
    checkpoint, the file and where to put it.
    """
    path = Path(source).expanduser()
    if not source.startswith("package:"):
        if path.is_file():
            return Found(source, path)
        if not path.is_dir() and HUB_ID.fullmatch(source):
            return Found(source, _from_hub(source, names, metric, setting))
    folder = package_folder(source) if source.startswith("package:") else path
    for name in names:
        if (folder / name).is_file():
            return Found(source, folder / name)
    raise UserError(
        f"{metric}: the weights {source!r} are not there",
        f"{folder / names[0]}",
        f"put {' or '.join(names)} there, or give {_option(metric, setting)}=FOLDER|FILE|OWNER/NAME",
    )


def find_folder(source: str, names: Sequence[str], patterns: Sequence[str], metric: str) -> Path:
    """The folder of a whole checkpoint that has one of `names`; the Hub gives what `patterns` match.

    UserError as `find` raises it.
    """
    found = find(source, names, metric)
    if Path(source).expanduser().exists() or source.startswith("package:"):
        return found.path.parent
    from huggingface_hub import snapshot_download

    repo, revision = source.partition("@")[0], found.revision or None
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the Hub client raises many classes; each means "not to be had"
        raise UserError(
            f"{metric}: the checkpoint {repo} is not whole on this machine",
            f"{repo}: the Hub cannot be asked ({type(error).__name__})",
            f"run: hf download {repo}; or name a folder of it, {_option(metric, 'weights')}=FOLDER",
        ) from error


@lru_cache(maxsize=64)
def file_sha256(path: str, size: int, changed: int) -> str:
    """The SHA-256 of a file, computed once per state of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(source: str, names: Sequence[str], metric: str, setting: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    repo, _, revision = source.partition("@")
    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    reason = "the repository has no such file"
    try:
        # One question without retries: the download itself would wait half a minute for a network.
        about = HfApi().model_info(repo, revision=revision or None, timeout=20)
        present = {file.rfilename for file in about.siblings or []}
        for name in names:
            if name in present:
                return Path(hf_hub_download(repo, name, revision=about.sha))
    except Exception as error:  # the Hub client raises many classes; each means "not to be had"
        reason = f"the Hub cannot be asked ({type(error).__name__})"
    raise UserError(
        f"{metric}: the weights {repo} are not on this machine",
        f"{repo}/{names[0]}: {reason}",
        f"run: hf download {repo} '{names[0]}'; or put {names[0]} into a folder and name it, "
        f"{_option(metric, setting)}=FOLDER",
    )


def _option(metric: str, setting: str) -> str:
    """How a setting is written on the command line."""
    owner = "SCORER" if metric == "backbone" else metric
    return f"--judges.options {owner}.{setting}"
