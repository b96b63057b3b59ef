"""A vision-language model's server on loopback: it says yes to bright pictures, and misbehaves on cue."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile_llm import KEY
from tests.loopback import Loopback, QuietHandler


class JudgingLLM(Loopback):
    """`with JudgingLLM() as server:` answers at `server.url`; a word in the question chooses how."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    def handler(self) -> type[_Handler]:
        return type("Handler", (_Handler,), {"owner": self})


def brightness(body: dict[str, Any]) -> float:
    """0 to 1: what the picture of a request shows, and so the chance of yes."""
    head, _, data = body["messages"][-1]["content"][1]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return float(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean() / 255)


class _Handler(QuietHandler):
    owner: JudgingLLM

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.owner.lock:
            self.owner.bodies.append(body)
            self.owner.keys.append(self.headers.get("Authorization", ""))
            count = len(self.owner.bodies)
        question = body["messages"][-1]["content"][0]["text"]
        for word, behave in _BEHAVIOURS.items():
            if word in question:
                return behave(self, body)
        chance = brightness(body)
        if not body.get("logprobs"):
            return self.say("Yes." if count % 10 < 10 * chance else "no", finish="stop")
        self.say("Yes", {"Yes": 0.8 * chance, " yes": 0.1 * chance, "No": 0.9 * (1 - chance), "It": 0.1})
        return None

    def say(
        self, text: Any, chances: dict[str, float] | None = None, finish: str = "length", **more: Any
    ) -> None:
        some = [{"token": word, "logprob": math.log(p)} for word, p in (chances or {}).items() if p > 0]
        self.choose(
            text, {"content": [{"token": text, "top_logprobs": some}]} if chances else None, finish, **more
        )

    def choose(self, text: Any, logprobs: Any, finish: str = "length", **message: Any) -> None:
        choice = {"index": 0, "finish_reason": finish, "message": {"content": text, **message}}
        usage = {"prompt_tokens": 1000, "completion_tokens": 1}
        self.send(200, {"model": "tiny-vl-1", "choices": [{**choice, "logprobs": logprobs}], "usage": usage})

    def send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)


def _tops(*some: Any) -> Any:
    return lambda self, body: self.choose("Yes", {"content": [{"top_logprobs": list(some)}]})


_BEHAVIOURS: dict[str, Any] = {
    "silent": lambda self, body: self.say("Yes", finish="stop"),
    "chatty": lambda self, body: self.say("As an", {"As": 0.9, "Yes": 0.01, "No": 0.01}),
    "impossible": _tops({"token": "yes", "logprob": 0.5}),
    "not a number": _tops({"token": "yes", "logprob": float("nan")}),
    "too certain": _tops({"token": "yes", "logprob": -0.1}, {"token": "Yes", "logprob": -0.1}),
    "wrong shape": _tops("yes", {"token": None}),
    "wordy": _tops({"token": "yes", "logprob": "very likely"}),
    "refusing": lambda self, body: self.say(None, {"Yes": 1.0}, refusal="I will not"),
    "no completion": lambda self, body: self.send(200, {"ok": True}),
    "too large": lambda self, body: self.send(413, {"error": {"message": "picture too large"}}),
    "overloaded": lambda self, body: self.send(503, {"error": {"message": "oops"}}),
    "shout": lambda self, body: self.send(400, {"error": {"message": f"bad {KEY}"}}),
    "rejected": lambda self, body: self.send(401, {"error": {"message": "who are you"}}),
    "perhaps": lambda self, body: self.say("perhaps yes", finish="stop"),
}
