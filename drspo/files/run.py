"""The run folder: plain files that say what was asked, with which versions, and what is done."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drspo.config import dump, to_dict
from drspo.errors import UserError
from drspo.files.storage import Storage, explain
from drspo.files.texts import parse_json

MANIFEST, CONFIG = "run.json", "config.yaml"
OWN = (MANIFEST, CONFIG, "log.txt")
RECORDED = tuple(
    """drspo torch diffusers transformers peft accelerate open-clip-torch ray datasets pyarrow polars
    openai pillow numpy opencv-python-headless safetensors huggingface-hub""".split()
)


# What a value raises that is missing, of another kind, or no text; and whose tables may be damaged.
_MISREAD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError)
_TABLES = ("pyarrow", "polars")


class RunDir(Storage):
    """A run's folder: `run.json`, `config.yaml` and whatever the program adds."""

    def start(
        self,
        program: str,
        config: Any,
        config_hash: str,
        *,
        reusable: Sequence[str] = (),
        stale: Sequence[str] = (),
        extends: Callable[[dict[str, Any]], bool] = lambda old: False,
    ) -> bool:
        """Begins the run, or continues it: True when the folder already held the same run.

        `config` is the resolved dataclass; `config_hash` covers what changes results. A folder of another
        configuration that holds no result yet takes the corrected one. No results are the run's own first
        files, those under names that begin with one of `reusable`, which stay, and with one of `stale`,
        which are removed; of the phases, those whose table is reusable stay. Where `extends` says that what
        is asked only adds to the configuration that is there, the folder takes it and remembers when and by
        which revision. Raises UserError with the difference when there is anything else, and when another
        program wrote the folder.
        """
        asked = to_dict(config)
        manifest = {
            "program": program,
            "config_hash": config_hash,
            "created": _now(),
            "versions": versions(),
            "revision": revision(),
            "config": asked,
            "phases": {},
        }
        fresh = self.create(MANIFEST, _encode(manifest))
        if not fresh and self._extend(program, config, config_hash, extends):
            return True
        if not fresh and self._differs(program, asked, config_hash, (*reusable, *stale)):
            for name in self.list():
                if name.startswith(tuple(stale)):
                    self.delete(name)
            kept = {name: facts for name, facts in self.phases().items() if f"{name}.parquet" in reusable}
            self.write(MANIFEST, _encode({**manifest, "phases": kept}))
            self.write(CONFIG, dump(config).encode("utf-8"))
            return bool(kept)
        if not self.exists(CONFIG):
            self.write(CONFIG, dump(config).encode("utf-8"))
        return not fresh

    def manifest(self) -> dict[str, Any]:
        """What `run.json` says; UserError when the folder holds no run."""
        try:
            data = self.read(MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"no run here: there is no {MANIFEST}", where=self.base) from None
        found = parse_json(data, self.url(MANIFEST))
        parts = {"program": str, "config_hash": str, "config": dict, "phases": dict}
        wrong = [name for name, kind in parts.items() if not isinstance(_part(found, name), kind)]
        if wrong:
            raise UserError(f"{MANIFEST} is damaged: it has no right {wrong[0]!r}", where=self.base)
        return dict(found)

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Turns what damaged or foreign files of the folder make their reader raise into one UserError.

        For a command that reads a whole folder of somebody else's: there are more places than checks for a
        value that is missing or of another kind. --debug shows which.
        """
        try:
            yield
        except (UserError, MemoryError, ConnectionError):
            raise
        except Exception as error:
            if explained := explain(error, self.base):  # the disk's fault, not the folder's
                raise explained from error
            if not isinstance(error, _MISREAD) and type(error).__module__.partition(".")[0] not in _TABLES:
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            hint = "It may be of another version; --debug shows the place. The run's command may mend it."
            raise UserError(f"a file of this folder is damaged: {said}", self.base, hint) from error

    def phases(self) -> dict[str, dict[str, Any]]:
        """The finished phases in order, each with its time and facts."""
        return dict(self.manifest()["phases"])

    def phase_done(self, name: str, **facts: Any) -> None:
        """Records that a phase is finished, with the facts worth keeping (counts, seconds)."""
        manifest = self.manifest()
        manifest["phases"][name] = {"finished": _now(), **facts}
        self.write(MANIFEST, _encode(manifest))

    def phase_undone(self, name: str, *kept: str) -> None:
        """Takes back what a phase came to, before its results are removed; the facts in `kept` stay."""
        manifest = self.manifest()
        facts = manifest["phases"].pop(name, {})
        if stays := {fact: facts[fact] for fact in kept if fact in facts}:
            manifest["phases"][name] = stays
        self.write(MANIFEST, _encode(manifest))

    def require(self, program: str) -> dict[str, Any]:
        """The manifest, when `program` wrote the folder; else UserError that says whose run it is."""
        found = self.manifest()
        if found["program"] != program:
            raise UserError(
                f"the folder holds a run of {found['program']!r}, not of {program!r}",
                where=self.base,
                hint="Choose another folder.",
            )
        return found

    def _extend(
        self, program: str, config: Any, config_hash: str, extends: Callable[[dict[str, Any]], bool]
    ) -> bool:
        """Whether the folder of a smaller configuration has taken this one."""
        found = self.require(program)
        if found["config_hash"] == config_hash or not extends(found["config"]):
            return False
        added = [*found.get("extended", ()), {"at": _now(), "revision": revision()}]
        found |= {"config_hash": config_hash, "config": to_dict(config), "extended": added}
        self.write(MANIFEST, _encode(found))
        self.write(CONFIG, dump(config).encode("utf-8"))
        return True

    def _differs(
        self, program: str, asked: dict[str, Any], config_hash: str, no_results: tuple[str, ...]
    ) -> bool:
        """Whether another configuration began the folder and left no result; UserError where it left one."""
        found = self.require(program)
        if found["config_hash"] == config_hash:
            return False
        if not any(name for name in self.list() if name not in OWN and not name.startswith(no_results)):
            return True
        lines = "\n".join(f"    {line}" for line in difference(found["config"], asked))
        raise UserError(
            f"the folder was written by another configuration:\n{lines or '    (code or data)'}",
            where=self.base,
            hint="Choose another output folder, or ask for what the folder was begun with.",
        )


def _part(manifest: Any, name: str) -> Any:
    return manifest.get(name) if isinstance(manifest, dict) else None


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per field that differs: `key: old -> new`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)!r} there, {after.get(key, absent)!r} asked now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def versions() -> dict[str, str]:
    """The versions of Python and of the distributions that results depend on, where installed."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """The git commit of the checkout that runs, with "+changes" when edited; "" when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    commit = _git(root, "rev-parse", "HEAD")
    return commit + (
        "+changes" if commit and _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    )


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _encode(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
