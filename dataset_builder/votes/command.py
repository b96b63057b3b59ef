"""`drspo vote RUN`: a page on which people judge scrolls, and what they said."""

from __future__ import annotations

import argparse
import logging
import secrets
import shlex
import socket
from pathlib import Path

from dataset_builder.folder import command
from dataset_builder.votes.contest import ballots, open_contest
from dataset_builder.votes.label_studio import export
from dataset_builder.votes.ledger import Ledger
from dataset_builder.votes.server import Judges, application, results
from drspo.cli import Terminated
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.leaving import public_name
from pipeline.candidates.plan import plan_names
from pipeline.pairs.votes import VOTES_NAME

log = logging.getLogger(__name__)
HOST = "127.0.0.1"


def main(argv: list[str]) -> int:
    """Serves the page until Ctrl-C; or prints the results, or writes an export."""
    asked = _parser().parse_args(argv)
    if asked.per_prompt < 1 or not 0 <= asked.checks < 1 or not 0 <= asked.port < 1 << 16:
        raise UserError("--per-prompt is at least 1, --checks a share below 1, --port below 65536")
    ledger = Ledger(_place(asked.run, asked.votes))
    votes, contest = ledger.votes(), open_contest(asked.run)
    if asked.results:
        print(table(results(contest, votes)))
        print(f"next: drspo vote {shlex.quote(asked.run)} for more votes{_pairs_by_votes(asked.run)}")
        return 0
    questions = ballots(contest, asked.per_prompt, asked.checks, asked.seed)
    if asked.label_studio:
        count = export(contest, questions, votes, Path(asked.label_studio))
        print(f"{asked.label_studio}: {count} tasks")
        print("next: import tasks.json into a project of Label Studio whose interface is interface.xml")
        return 0
    serve(Judges(contest, questions, ledger, public_name(asked.run)), asked.port, asked.open)
    print(f"votes: {ledger.path} ({len(ledger.votes())})")
    print(f"next: drspo vote {shlex.quote(asked.run)} --results{_pairs_by_votes(asked.run)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drspo vote", description=__doc__)
    parser.add_argument("run", help="the folder of a dataset run, also unfinished, or of a benchmark")
    parser.add_argument("--per-prompt", type=int, default=3, help="comparisons of each prompt (default 3)")
    share = "share of further ballots that show one scroll twice, to see who looks (default 0)"
    parser.add_argument("--checks", type=float, default=0.0, help=share)
    parser.add_argument(
        "--seed", type=int, default=0, help="shuffles prompts and pairs; the same for all judges"
    )
    parser.add_argument("--votes", default="", help=f"the file of votes (default RUN/{VOTES_NAME})")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; 0 takes a free one")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    parser.add_argument(
        "--results", action="store_true", help="print methods, judges and agreement, and exit"
    )
    studio = "write tasks, pictures and votes for Label Studio into a folder, and exit"
    parser.add_argument("--label-studio", default="", metavar="FOLDER", help=studio)
    return parser


def _place(run: str, votes: str) -> Path:
    place = votes or f"{run.rstrip('/')}/{VOTES_NAME}"
    if "://" in place:
        hint = "Give a local file by --votes, and put it into the run when all have judged."
        raise UserError("votes are added to a local file", place, hint)
    return Path(place)


def _pairs_by_votes(where: str) -> str:
    """How pairs are made of the votes, behind another command; nothing of a benchmark, which has no pairs."""
    run = RunDir(where)
    if not plan_names(run):
        return ""
    return f"; pairs of them: {command(run)} --pairs.source votes"


def serve(state: Judges, port: int, show: bool) -> None:
    """Answers on 127.0.0.1 until Ctrl-C."""
    import uvicorn

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        raise UserError(f"port {port} cannot be had: {error.strerror}", "--port", "Leave it out.") from error
    token = secrets.token_urlsafe(24)
    address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    print(f"{len(state.ballots)} comparisons; judge at\n  {address}")
    print("Ctrl-C ends it; every vote is kept at once.", flush=True)
    if show:
        import webbrowser

        webbrowser.open(address)
    config = uvicorn.Config(
        application(state, token), log_level="error", access_log=False, server_header=False
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except Terminated:
        raise
    except KeyboardInterrupt:
        pass  # the way to end it


def table(found: dict) -> str:
    """The results as text."""
    lines = ["chance to be preferred to an average method [95 %], wins of votes"]
    for one in found["methods"]:
        bounds = "" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]"
        lines.append(f"  {one['method']:28s} {one['chance']:.2f}{bounds}  {one['wins']:g} of {one['votes']}")
    if not found["methods"]:
        lines.append("  nobody has voted on two methods yet")
    for judge in found["judges"]:
        checked = f", {judge['attentive']} of {judge['checks']} checks passed" if judge["checks"] else ""
        lines.append(f"judge {judge['judge']}: {judge['votes']} votes{checked}")
    agreed = found["agreement"]
    if agreed["ballots"]:
        alpha = "" if agreed["alpha"] is None else f", Krippendorff's alpha {agreed['alpha']:.2f}"
        lines.append(f"agreement: {agreed['share']:.2f} over {agreed['ballots']} shared ballots{alpha}")
    return "\n".join(lines)
