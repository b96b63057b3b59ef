"""What asking cost and came to: the account of one question, and the report of all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from drspo.llm.reply import Reply
from drspo.llm.segments import Kind, Line
from drspo.llm.settings import LLMSettings


@dataclass
class LLMReport:
    """What the language model did since it was started; estimated tokens are those no server reported."""

    requests: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    from_cache: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0
    cost: float = 0.0

    def count(self, line: Line, settings: LLMSettings) -> None:
        """Add what a line of the ledger cost."""
        if line.estimated:
            self.estimated_tokens += line.prompt_tokens + line.completion_tokens
        else:
            self.prompt_tokens += line.prompt_tokens
            self.completion_tokens += line.completion_tokens
        self.cost += cost(settings, line.prompt_tokens, line.completion_tokens)


@dataclass(frozen=True)
class Bill:
    """What one request costs at most, and what it did cost as far as that is known."""

    request_hash: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def most(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def line(self, reply: Reply | None, kind: Kind = "lost", **more: Any) -> Line:
        """The ledger's line for a request with this reply, or with none where the server may have billed it.

        What a reply without usage cost is estimated from its bytes, at most the longest answer; without any
        reply it is the most that it can have been.
        """
        line = Line(request_hash=self.request_hash, kind=kind, requests=1, **more)
        if reply is not None and reply.usage:
            asked, answered = reply.prompt_tokens, reply.completion_tokens
            return replace(line, prompt_tokens=asked, completion_tokens=answered)
        answered = self.completion_tokens
        if reply is not None:
            answered = min(answered, -(-reply.size // 3))
        return replace(line, prompt_tokens=self.prompt_tokens, completion_tokens=answered, estimated=True)


def bill(request_hash: str, body: dict[str, Any], settings: LLMSettings, picture_tokens: int = 0) -> Bill:
    """An upper estimate of one request: a token per three bytes asked, and the longest answer.

    What encoded pictures cost is not in their bytes.
    """
    text = json.dumps(_without_pictures(body))
    return Bill(request_hash, -(-len(text) // 3) + picture_tokens, settings.max_output_tokens)


def _without_pictures(node: Any) -> Any:
    """The request without the pictures that it holds, encoded in addresses; words that look so are words."""
    if isinstance(node, list):
        return [_without_pictures(each) for each in node]
    if isinstance(node, dict):
        return {name: _without_pictures(each) for name, each in node.items() if name != "image_url"}
    return node


def cost(settings: LLMSettings, prompt_tokens: int, completion_tokens: int) -> float:
    """The price of so many tokens, in the currency of the settings' prices per million."""
    return (prompt_tokens * settings.price_input + completion_tokens * settings.price_output) / 1e6


def summary(report: dict[str, Any]) -> str:
    """A report in one line."""
    answers = ", ".join(f"{count} {kind}" for kind, count in sorted(report["answers"].items()))
    parts = [f"{report['requests']} requests, {report['from_cache']} answers from the cache ({answers})"]
    parts.append(f"{report['prompt_tokens']} tokens in, {report['completion_tokens']} out")
    if report["estimated_tokens"]:
        parts.append(f"{report['estimated_tokens']} more estimated")
    if report["cost"]:
        parts.append(f"price {report['cost']:.4f}")
    if report["failures"]:
        parts.append(
            "retried " + ", ".join(f"{count} x {name}" for name, count in sorted(report["failures"].items()))
        )
    return "; ".join(parts)
