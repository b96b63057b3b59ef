"""The judge's page, for this machine alone: two scrolls without names, an answer, the next two."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dataset_builder.votes.contest import Ballot, Contest, turned
from dataset_builder.votes.ledger import Ledger
from dataset_builder.votes.standings import agreement, judges, methods
from drspo.files.pictures import picture_format
from drspo.web import viewer
from pipeline.pairs.votes import Vote

LONGEST_NAME = 60
LONGEST_BODY = 10_000
HOSTS = ["127.0.0.1", "localhost"]
"""Names under which the page is reached: another one is a stranger's, whose address was pointed here."""


POLICY = (
    "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'nonce-{nonce}'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing is fetched but from this server, and no script runs but the page's own."""


class Judges:
    """The state behind the page: ballots, votes, and who has what still to do."""

    def __init__(self, contest: Contest, ballots: list[Ballot], ledger: Ledger, title: str) -> None:
        self.contest, self.ledger, self.title = contest, ledger, title
        self.ballots = {ballot.name: ballot for ballot in ballots}
        self.picture = lru_cache(maxsize=16)(contest.picture)

    def state(self, judge: str) -> dict[str, Any]:
        """What the page shows a judge next: a ballot without names, progress, and results at the end."""
        votes = self.ledger.votes()
        done = {vote.ballot for vote in votes if vote.judge == judge}
        left = [ballot for ballot in self.ballots.values() if ballot.name not in done]
        told: dict[str, Any] = {
            "done": sum(name in self.ballots for name in done),
            "total": len(self.ballots),
            "everybody": len(votes),
            "ballot": {"name": left[0].name, "prompt": left[0].first.prompt} if left else None,
        }
        return told if left else told | {"results": results(self.contest, votes)}

    def sides(self, ballot: Ballot, judge: str) -> tuple[str, str]:
        """The names of the upper and the lower scroll as this judge sees them."""
        pair = (ballot.first.name, ballot.second.name)
        return (pair[1], pair[0]) if turned(ballot, judge) else pair

    def vote(self, judge: str, ballot: Ballot, said: str, seconds: float) -> None:
        """Keeps a verdict given as upper, lower, tie or bad."""
        upper, lower = self.sides(ballot, judge)
        verdict = said
        if said in ("upper", "lower"):
            better = upper if said == "upper" else lower
            verdict = "first" if better == ballot.first.name else "second"
        vote = Vote(
            judge=judge, ballot=ballot.name, first=ballot.first.name, second=ballot.second.name,
            verdict=verdict,  # type: ignore[arg-type]
        )  # fmt: skip
        self.ledger.add(vote, upper=upper, seconds=seconds)

    def undo(self, judge: str) -> bool:
        """Takes the judge's last vote back; False where there is none."""
        mine = [vote for vote in self.ledger.votes() if vote.judge == judge]
        if mine:
            self.ledger.take_back(judge, mine[-1].ballot)
        return bool(mine)


def results(contest: Contest, votes: list[Vote]) -> dict[str, Any]:
    """Methods, agreement and judges, as JSON has it: no number is None."""
    scrolls = contest.scrolls
    standing = methods(
        votes,
        {name: scroll.method for name, scroll in scrolls.items()},
        {name: scroll.prompt_id for name, scroll in scrolls.items()},
    )
    share, alpha, shared = agreement(votes)
    return {
        "methods": [_finite(asdict(one)) for one in standing],
        "agreement": _finite({"share": share, "alpha": alpha, "ballots": shared}),
        "judges": [asdict(one) for one in judges(votes)],
    }


def _finite(told: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in told.items()}


def application(state: Judges, token: str) -> Starlette:
    """The page and what it asks, all of it below a path that only the printed address knows."""

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
                return PlainTextResponse("no such page", 404)
            response = await answer(request)
            response.headers["Cache-Control"] = "no-store"
            response.headers["Referrer-Policy"] = "no-referrer"
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return checked

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        shown = viewer().replace("<script>", f'<script nonce="{nonce}">')
        text = _template().render(title=state.title, viewer=shown, nonce=nonce)
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY.format(nonce=nonce)})

    async def ask(request: Request) -> Response:
        judge = _judge(request.query_params.get("judge", ""))
        return JSONResponse(await asyncio.to_thread(state.state, judge)) if judge else _refused("no name")

    async def picture(request: Request) -> Response:
        ballot = state.ballots.get(request.path_params["ballot"])
        judge, side = _judge(request.query_params.get("judge", "")), request.path_params["side"]
        if ballot is None or side not in ("upper", "lower") or not judge:
            return PlainTextResponse("no such picture", 404)
        name = state.sides(ballot, judge)[side == "lower"]
        data = await asyncio.to_thread(state.picture, name)
        return Response(data, media_type=f"image/{picture_format(data)}")

    async def vote(request: Request) -> Response:
        told = await _told(request)
        judge, ballot = _judge(told.get("judge", "")), state.ballots.get(str(told.get("ballot", "")))
        said, seconds = str(told.get("verdict", "")), told.get("seconds", 0.0)
        if not judge or ballot is None or said not in ("upper", "lower", "tie", "bad"):
            return _refused("that is no vote")
        looked = float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e6 else 0.0
        await asyncio.to_thread(state.vote, judge, ballot, said, looked)
        return JSONResponse(await asyncio.to_thread(state.state, judge))

    async def undo(request: Request) -> Response:
        judge = _judge((await _told(request)).get("judge", ""))
        if not judge:
            return _refused("no name")
        await asyncio.to_thread(state.undo, judge)
        return JSONResponse(await asyncio.to_thread(state.state, judge))

    routes = [
        Route("/{token}/", guarded(page)),
        Route("/{token}/ask", guarded(ask)),
        Route("/{token}/picture/{ballot}/{side}", guarded(picture)),
        Route("/{token}/vote", guarded(vote), methods=["POST"]),
        Route("/{token}/undo", guarded(undo), methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


async def _told(request: Request) -> dict[str, Any]:
    """The JSON object of a request of our own page; empty for anything else."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return {}  # what a form of another page could send
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LONGEST_BODY:
            return {}
    try:
        told = json.loads(data)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _judge(name: Any) -> str:
    """A judge's name, one line without blanks around it; "" where it is none."""
    text = " ".join(str(name).split())
    return text if len(text) <= LONGEST_NAME and text.isprintable() else ""


def _refused(why: str) -> Response:
    return JSONResponse({"error": why}, 400)


@lru_cache(maxsize=1)
def _template() -> Any:
    loader = PackageLoader("dataset_builder.votes", "templates")
    return Environment(loader=loader, autoescape=True).get_template("page.html.jinja")
