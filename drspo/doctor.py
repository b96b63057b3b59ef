"""`drspo doctor`: what a report of a problem needs to say about a machine, ready to paste."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
from typing import Any

from drspo import shadow
from drspo.files import run

TOKENS = ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID")
DTYPES = ("float32", "bfloat16", "float16")


def main(argv: list[str]) -> int:
    """Prints versions, devices, tokens (set or not, never their text), models with their commits, shadowed
    names and disk."""
    parser = argparse.ArgumentParser(
        prog="drspo doctor",
        description="Says what our programs find on this machine. Tokens are never printed.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    report = _from_home(examine())
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if options.json else render(report))
    if not options.json:
        print("next      drspo demo, or docs/troubleshooting.md for what an error message means")
    return 0


def _from_home(value: Any) -> Any:
    """The report with ~ for the home folder, since it is made to be pasted."""
    if isinstance(value, dict):
        return {key: _from_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_home(item) for item in value]
    home = os.path.expanduser("~")
    return value.replace(home, "~") if isinstance(value, str) and len(home) > 1 else value


def examine() -> dict[str, Any]:
    """Everything the command prints, as plain values."""
    return {
        "machine": _machine(),
        "versions": run.versions(),
        "revision": run.revision() or "installed, not a checkout",
        "location": str(shadow.ROOT),
        "devices": _devices(),
        "tokens": {name: "set" if os.environ.get(name) else "not set" for name in TOKENS},
        "hub login": "found" if _hub_login() else "none",
        "models": _models(),
        "names": _names(),
        "disk": _disk(),
    }


def _machine() -> dict[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": f"{usable} usable of {os.cpu_count()}",
        "memory": _memory(),
    }


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB"


def _devices() -> dict[str, Any]:
    """Each device with its memory and the dtypes that it multiplies; the reason when torch is unusable."""
    try:
        torch = importlib.import_module("torch")  # by name: the spine itself stays free of torch
    except Exception as error:  # a broken installation is a finding, not a crash
        return {"torch": f"cannot be imported: {error}"}
    found: dict[str, Any] = {"cpu": {"dtypes": _dtypes(torch, "cpu")}}
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index}"
        properties = torch.cuda.get_device_properties(index)
        found[name] = {
            "name": properties.name,
            "memory": f"{properties.total_memory / 2**30:.1f} GiB",
            "dtypes": _dtypes(torch, name),
        }
    if torch.backends.mps.is_available():
        found["mps"] = {"dtypes": _dtypes(torch, "mps")}
    return found


def _dtypes(torch: Any, device: str) -> list[str]:
    working = []
    for name in DTYPES:
        try:
            tile = torch.ones(8, 8, device=device, dtype=getattr(torch, name))
            if float((tile @ tile).sum()) == 512.0:
                working.append(name)
        except (RuntimeError, TypeError):
            continue
    return working


def _hub_login() -> bool:
    try:
        return bool(importlib.import_module("huggingface_hub").get_token())
    except Exception:  # an unusable hub client only means that there is no login
        return False


def _models() -> dict[str, str]:
    """The Hub's models in the cache of this machine: which commits, which of them a plain id means, how much.

    A result is repeated by giving the commit: `--model ID@COMMIT`.
    """
    try:
        found = importlib.import_module("huggingface_hub").scan_cache_dir()
    except Exception:  # no cache, or one that cannot be read: nothing to tell
        return {}
    return {
        f"{repo.repo_id}@{version.commit_hash}": f"{version.size_on_disk / 2**20:.0f} MiB"
        + (f" ({', '.join(sorted(version.refs))})" if version.refs else "")
        for repo in sorted(found.repos, key=lambda repo: repo.repo_id)
        for version in sorted(repo.revisions, key=lambda version: version.commit_hash)
        if repo.repo_type == "model"
    }


def _names() -> dict[str, str]:
    foreign = shadow.shadowed()
    return {
        name: f"SHADOWED by {foreign[name]}"
        if foreign.get(name)
        else "missing"
        if name in foreign
        else "ours"
        for name in shadow.PACKAGES
    }


def _disk() -> dict[str, str]:
    cache = os.path.expanduser(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    places = {
        "working directory": os.getcwd(),
        "hub cache": cache,
        "temporary": os.environ.get("TMPDIR", "/tmp"),
    }
    return {label: f"{_free(path)} free ({path})" for label, path in places.items()}


def _free(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return f"{shutil.disk_usage(path).free / 2**30:.1f} GiB"


def render(report: dict[str, Any]) -> str:
    """The report as indented lines."""
    lines: list[str] = []
    for section, content in report.items():
        if isinstance(content, dict):
            lines.append(section)
            lines += [f"  {key:<24} {_flat(value)}" for key, value in content.items()]
        else:
            lines.append(f"{section:<26} {content}")
    return "\n".join(lines) + "\n"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)
