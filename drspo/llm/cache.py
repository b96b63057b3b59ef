"""Answers of the language model on the run's storage, by request hash: nothing is paid for twice.

Failures are stored too. A permanent one (the server refuses this very request, the answers are garbage) stays
dead; a transient one (overload, network) is asked again by the next run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from drspo.files.storage import Storage

Kind = Literal["ok", "invalid", "permanent", "transient", "budget"]
FOLDER = "cache/llm"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one request. `content` is the model's validated JSON, empty unless kind is "ok"."""

    request_hash: str
    kind: Kind
    content: str = ""
    reason: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class AnswerCache:
    """Reads and writes `<folder>/<two hex digits>/<request hash>.json`; without a storage nothing."""

    def __init__(self, storage: Storage | None, folder: str = FOLDER) -> None:
        self.storage, self.folder = storage, folder

    def get(self, request_hash: str) -> Answer | None:
        """The stored answer, or None; a file that cannot be read counts as absent and is written anew."""
        if self.storage is None:
            return None
        try:
            answer = _parse(self.storage.read(self._name(request_hash)))
        except FileNotFoundError:
            return None
        return answer if answer is not None and answer.request_hash == request_hash else None

    def put(self, answer: Answer) -> Answer:
        """Store an answer and give the one that counts: the first good one, when two jobs asked at once."""
        if self.storage is None:
            return answer
        name, data = self._name(answer.request_hash), json.dumps(asdict(answer), ensure_ascii=True).encode()
        if self.storage.create(name, data):
            return answer
        earlier = self.get(answer.request_hash)
        if earlier is not None and earlier.kind != "transient":
            return earlier
        self.storage.write(name, data)
        return answer

    def spent(self) -> dict[str, int]:
        """Totals over every stored answer: {"prompt_tokens", "completion_tokens", "requests"}."""
        total = {"prompt_tokens": 0, "completion_tokens": 0, "requests": 0}
        if self.storage is None:
            return total
        for name in self.storage.list(self.folder):
            answer = _parse(self.storage.read(name))
            for key in total:
                total[key] += getattr(answer, key) if answer is not None else 0
        return total

    def _name(self, request_hash: str) -> str:
        return f"{self.folder}/{request_hash[:2]}/{request_hash}.json"


def _parse(data: bytes) -> Answer | None:
    try:
        return Answer(**json.loads(data))
    except (ValueError, TypeError):
        return None
