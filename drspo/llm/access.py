"""Who is asked and with which key: a file may name a server, but only the person sends it a key.

An address is the person's own where it is OpenAI's, on the command line, or in OPENAI_BASE_URL. A variable
that holds a key is the person's own where it is OPENAI_API_KEY, on the command line, or in
DRSPO_LLM_KEY_VARIABLE: a shared YAML could name any secret of the environment and a server that collects it.
"""

from __future__ import annotations

import os
from urllib.parse import SplitResult, urlsplit

from drspo import consent
from drspo.errors import UserError
from drspo.llm.settings import KEY_VARIABLE, OPENAI, LLMSettings


def check_access(settings: LLMSettings) -> None:
    """Raise UserError for what no request can succeed with: a bad address, no model, no key."""
    parts = _split(settings.base_url)
    if parts.username or parts.password or parts.query or parts.fragment:
        hint = "Put the key into an environment variable and name it with --llm.key-variable."
        raise UserError("a server's address must not carry a key", "--llm.base-url", hint)
    if not settings.model:
        raise UserError("no language model is named", "--llm.model", "For example --llm.model gpt-5-mini.")
    key_for(settings)


def key_for(settings: LLMSettings) -> str:
    """The key to send; empty when the server needs none, or when only a file names its address."""
    variable = settings.key_variable
    if not variable:
        return ""
    if variable not in (KEY_VARIABLE, os.environ.get("DRSPO_LLM_KEY_VARIABLE")) and not _said(
        "key_variable", variable
    ):
        raise UserError(
            f"only a file says that the key is in the environment variable {variable}",
            "llm.key_variable",
            f"If it is, add: --llm.key-variable {variable}",
        )
    if is_withheld(settings):
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        hint = 'Set it, or pass --llm.key-variable "" for a server that needs no key.'
        raise UserError(f"the environment variable {variable} holds no key", "--llm.key-variable", hint)
    if not key.isascii() or not key.isprintable():
        raise UserError(f"the key in {variable} has characters that no key has")
    return key


def is_withheld(settings: LLMSettings) -> bool:
    """Whether the server is asked without a key because only a file names its address."""
    trusted = (OPENAI, os.environ.get("OPENAI_BASE_URL"))
    address = settings.base_url
    return bool(settings.key_variable) and address not in trusted and not _said("base_url", address)


def _said(key: str, value: str) -> bool:
    """Whether the command line gives this value, to --llm.KEY or to a judge's own setting name.KEY=value."""
    settings = (entry.partition("=") for entry in consent.values("judges.options", "scoring.options"))
    return consent.said(f"llm.{key}", value) or any(
        (path.rpartition(".")[2], given) == (key, value) for path, _, given in settings
    )


def to_send_it(settings: LLMSettings) -> str:
    """What to type so that the server gets the key after all."""
    return (
        f"Only a file names this address, so no key is sent. To send it: --llm.base-url {settings.base_url} "
        f"(for a scorer its own setting on the command line)"
    )


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0):
            return parts
    except ValueError:
        pass
    raise UserError(f"{address!r} is not the address of a server", "--llm.base-url")
