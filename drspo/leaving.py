"""The one door out: what leaves this machine carries names and ids, never places, people or secrets.

Cards, published configurations, records inside pictures, LoRA folders, HTML pages and trackers' settings all
pass here. A model, a data set or a LoRA leaves as its Hub id or its bare name; who may need the thing itself
gives its place by a flag, and a fingerprint says whether it is the right one. Prompts are not touched: they
are what somebody chose to publish; a secret in one is refused.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drspo.errors import UserError
from drspo.own_words import OWN_WORDS

UNNAMED = "unnamed"
CUT = "***"
ADDRESS = "(an address)"
LEAST = 19
"""Characters of what is surely a credential; shorter ones are cut from messages only."""
# Of variables, options and fields alike. PWD alone is a folder, and `max_tokens` or `keys` are no secrets.
_SECRET_NAMES = re.compile(
    r"(?:token|secrets?|password|passwd|passphrase|passcode|(?<=[_.-])pwd|credentials?|creds|bearer|auth"
    r"|authori[sz]ation|cookies?|jwt|private|key|key_?id|(?:api|access|secret|private)_?keys)$",
    re.IGNORECASE,
)
_SECRET_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}|\bsk-(?=[\w-]*\d)[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|\bgh[oprsu]_\w{20,}|\bxox[a-z]-[\w-]{10,}"
)
_USERINFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>()\[\]{}]*", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+")
_HUB_URL = re.compile(r"(?:https?://(?:www\.)?huggingface\.co|hf:/)/(?:datasets/|models/)?([\w.-]+/[\w.-]+)")
_OPTION = re.compile(r"([\w.:-]+=)(.+)", re.DOTALL)
_ROOTED = re.compile(r"(?:[A-Za-z]:[\\/]|\\\\|~[\w.-]*(?:[\\/]|$)|/|\.\.?[\\/])")
_DEEP = re.compile(r"[^\s/]+(?:/[^\s/]+){2,}/?")
_FILE = re.compile(
    r"\S+\.(?:safetensors|ckpt|pth?|bin|txt|jsonl|json|csv|tsv|parquet|ya?ml|png|webp|jpe?g)",
    re.IGNORECASE,
)
_PATH_IN_TEXT = re.compile(r"(?<![\w/\\.:~<>-])(?:~|[A-Za-z]:)?[\\/](?=[\w.~@-])[^\s'\"<>|,;()\[\]{}`]*")
_HOST = re.compile(
    r"(?<![\d.])(?:(?:10|127)\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?![\d.])(?::\d+)?"
    r"|(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}:\d+\b"
    r"|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:internal|local|localdomain|lan|corp|intranet|private|cluster)\b(?::\d+)?"
    r"|(?<=\bhost )[\w.-]+(?::\d+)?|(?<=\bhost=['\"])[^'\"]+",
    re.IGNORECASE,
)
_PUBLIC_HOSTS = ("huggingface.co", "github.com", "api.openai.com")
# Names of accounts and machines that tell on nobody.
_ANYONE = OWN_WORDS.union(
    "root user users home admin ubuntu debian docker runner localhost workspace work jovyan nobody data "
    "eval generate pipeline cuda python".split()
)
# What names code, or a score: a plugin, a registered name, a column, or several with their weights.
_CODE_FIELDS = frozenset(
    "generators scorers filters expander methods baseline trained aside weights decided_by".split()
)
_PLUGIN = re.compile(r"\w:[^\W\d]")
_CODE = re.compile(r"[\w.:=+, -]+")
_WORDING = re.compile(r"(?:^|[_.])prompts?$")


def public(value: Any, field: str = "", hosts: Iterable[str] = ()) -> Any:
    """The plain values of a configuration or record as they may leave; numbers and structure stay.

    `field` is the name that the value has, `hosts` are further machines that messages in it may name.
    Names of code and of scores stay whoever is called so; what is to be painted or not is wording.
    """
    if isinstance(value, Mapping):
        return {_public_key(key, hosts): public(item, str(key), hosts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(item, field, hosts) for item in value]
    if not isinstance(value, str):
        return value
    if _CODE.fullmatch(value) and (field in _CODE_FIELDS or (field == "name" and _PLUGIN.search(value))):
        return without_secrets(value)
    if value and _SECRET_NAMES.search(field):
        return CUT
    if _WORDING.search(field):
        return public_wording(value)
    if field.endswith("url") and _URL.fullmatch(value):
        return value if _public_url(value) == value else ""
    if option := _OPTION.fullmatch(value):
        return option[1] + public(option[2], option[1].rstrip("="), hosts)
    named = is_place(value) or _HUB_ID.fullmatch(value)
    return public_name(value) if named else public_text(value, hosts)


def _public_key(key: Any, hosts: Iterable[str]) -> Any:
    """A field, a generator or a score as it is; a message as it may leave."""
    is_name = isinstance(key, str) and re.fullmatch(r"[\w.]+(?::[\w.]+)?", key)
    return without_secrets(key) if is_name else public(key, "", hosts)


def is_place(text: str) -> bool:
    """Whether the whole text is a path or an address, and neither a Hub id nor a name."""
    if not text or "\n" in text or text.startswith("package:"):
        return False
    if text in (".", "..", "~") or _URL.fullmatch(text) or _ROOTED.match(text):
        return True
    shaped = _DEEP.fullmatch(text) or ("/" in text and _FILE.fullmatch(text))
    return bool(shaped) or ("/" in text and _exists(text))


def public_name(name: str) -> str:
    """What a model, a data set or a file is called elsewhere: its Hub id, or the last part of its path."""
    name = name.strip()
    if on_hub := _HUB_URL.match(name):
        return on_hub[1]
    if not is_place(name):
        return without_secrets(name) if _HUB_ID.fullmatch(name) else public_text(name)
    place = name
    if _URL.fullmatch(name):
        parts = urlsplit(name)
        if parts.hostname in _PUBLIC_HOSTS:
            return public_text(name)
        place = parts.path if parts.netloc and parts.scheme != "file" else f"{parts.netloc}{parts.path}"
    else:
        place = os.path.abspath(name) if not name.strip("./\\") else name
    last = re.split(r"[\\/]+", place.rstrip("/\\"))[-1].lstrip("~")
    return UNNAMED if last.lower() in {word.lower() for word in _persons()} else public_text(last) or UNNAMED


def public_text(text: str, hosts: Iterable[str] = ()) -> str:
    """A message without its secrets, addresses, paths (their last part stays), account and machine names.

    `hosts` are further machines that it may name.
    """
    text = _URL.sub(lambda found: _public_url(found[0]), without_secrets(text))
    for host in filter(None, hosts):
        text = text.replace(host, ADDRESS)
    text = _HOST.sub(ADDRESS, text)
    if len(home := os.path.expanduser("~")) > 1:
        text = text.replace(f"{home}/", "/")
    text = _PATH_IN_TEXT.sub(lambda found: _last_part(found[0]), text)
    for word in _persons():
        text = re.sub(rf"(?i)(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", UNNAMED, text)
    return text


def public_wording(text: str) -> str:
    """Words that somebody chose, where a slash stands for "or": only secrets, addresses, paths below home and
    names of accounts and machines as parts of a path go."""
    text = _URL.sub(lambda found: _public_url(found[0]), without_secrets(text))
    if len(home := os.path.expanduser("~")) > 1:
        below = rf"(?<![\w.~-]){re.escape(home)}(?![\w-])[^\s'\"<>|,;()\[\]{{}}`]*"
        text = re.sub(below, lambda found: public_name(found[0]), text)
    for word in map(re.escape, _persons()):
        text = re.sub(rf"(?i)(?<=[\\/~@]){word}(?![\w-])|(?<![\w-]){word}(?=[\\/@])", UNNAMED, text)
    return text


def without_secrets(text: str) -> str:
    """The text with credentials of the environment, and whatever looks like one, cut out."""
    for secret in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(secret, CUT)
    return _USERINFO.sub(f"{CUT}@", _SECRET_SHAPES.sub(CUT, text))


def refuse_secrets(data: bytes | str, where: str) -> None:
    """UserError when the text, or the bytes of a file, hold a credential; it names the variable alone."""
    found = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    for name, secret in secrets().items():
        if secret.encode() in found:
            raise UserError(
                f"{where} would publish the value of {name}", hint="Remove it from the run's settings."
            )
    # In a picture's bytes such a shape is chance, and a short one may be a word such as hf_datasets.
    shapes = [] if b"\0" in found else _SECRET_SHAPES.finditer(found.decode("utf-8", "replace"))
    if shape := next((shape for shape in shapes if len(shape[0]) >= LEAST), None):
        raise UserError(
            f"{where} would publish what looks like a credential: {shape[0][:4]}...",
            hint="Remove it from the run's prompts or settings.",
        )


def secrets() -> dict[str, str]:
    """Values of the environment that look like credentials, by variable; passwords of its addresses too."""
    found = {}
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) >= 8:
            found[name] = value
        elif "://" in value and (password := _password(value)):
            found[name] = password
    return found


def _password(address: str) -> str:
    try:
        password = urlsplit(address).password or ""
    except ValueError:
        return ""
    return password if len(password) >= 4 else ""


def _public_url(address: str) -> str:
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        host = ""
    public_host = any(host == known or host.endswith(f".{known}") for known in _PUBLIC_HOSTS)
    return without_secrets(address) if public_host or address.startswith("hf://") else ADDRESS


def _last_part(path: str) -> str:
    if path.startswith(("//", "/ ")) or len(path) < 2:
        return path
    stripped = path.rstrip("/\\.:")
    last = re.split(r"[\\/]+", stripped)[-1].lstrip("~")
    return (last or UNNAMED) + path[len(stripped) :].strip("/\\")


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _persons() -> list[str]:
    """The names of this account and this machine, longest first, but for those that anyone has."""
    words = {word for word in _own_names() if len(word) >= 3 and word.lower() not in _ANYONE}
    return sorted(words, key=lambda word: (-len(word), word))


def _own_names() -> Iterator[str]:
    with contextlib.suppress(OSError, KeyError, ImportError):  # no account has this process's number
        yield getpass.getuser()
    for variable in ("USER", "LOGNAME", "USERNAME", "HOSTNAME"):
        yield os.environ.get(variable, "")
    yield Path(os.environ.get("HOME", "/")).name
    for host in (socket.gethostname(), os.environ.get("HOSTNAME", "")):
        yield host
        yield host.partition(".")[0]
