"""People's votes: what is asked, how it is kept, what comes of it, and who may ask the page."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dataset_builder.report.view import write
from dataset_builder.votes.command import main, table
from dataset_builder.votes.contest import Contest, Scroll, ballots, open_contest, turned
from dataset_builder.votes.ledger import Ledger
from dataset_builder.votes.server import Judges, application, results
from dataset_builder.votes.standings import agreement, methods, strengths
from drspo.errors import UserError
from pipeline.pairs.pairing import choose_pairs
from pipeline.pairs.votes import Vote, read_votes, standing
from pipeline.settings import PairSettings
from tests.building import IDEAS, begun, build, fake_config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKEN = "t0ken"


def png(colour="teal"):
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


def contest(prompts=6, kinds=("mad", "drspo", "sdxl")):
    scrolls = [
        Scroll(name=f"{kind}-{n}", prompt_id=f"p{n}", prompt=f"a lake <b>number</b> {n}", method=kind)
        for n in range(prompts)
        for kind in kinds
    ]
    return Contest(scrolls, lambda name: png())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("votes")
    config = fake_config(folder, folder / "run")
    build(config)
    return config


def test_a_run_whose_prompts_are_still_made_can_be_judged(tmp_path):
    config = fake_config(tmp_path, tmp_path / "run", block=1)
    begun(config, 3)
    scrolls = open_contest(config.out).scrolls
    assert len(scrolls) == 12 and len({scroll.prompt for scroll in scrolls.values()}) == 3
    assert main([config.out, "--label-studio", str(tmp_path / "out")]) == 0


def vote(verdict, first="a", second="b", judge="ann", ballot=None):
    return Vote(judge=judge, ballot=ballot or first + second, first=first, second=second, verdict=verdict)


# What is asked ---------------------------------------------------------------------------------


def test_every_prompt_is_asked_before_any_is_asked_again_and_all_judges_have_the_same_order():
    found = ballots(contest(), per_prompt=2)
    assert len(found) == 12 and found == ballots(contest(), per_prompt=2)
    assert len({ballot.first.prompt_id for ballot in found[:6]}) == 6
    assert found != ballots(contest(), per_prompt=2, seed=1)
    assert all(ballot.first.prompt_id == ballot.second.prompt_id for ballot in found)
    assert all(ballot.first.method != ballot.second.method for ballot in found)


def test_checks_show_a_scroll_beside_itself():
    found = ballots(contest(40), per_prompt=1, checks=0.3)
    assert 3 < sum(ballot.is_check for ballot in found) < 25
    assert not any(ballot.is_check for ballot in ballots(contest(40)))


def test_sides_are_chance_but_stay():
    asked = ballots(contest(60), per_prompt=1)
    sides = [turned(ballot, "ann") for ballot in asked]
    assert 15 < sum(sides) < 45 and sides == [turned(ballot, "ann") for ballot in asked]
    assert sides != [turned(ballot, "bob") for ballot in asked]


def test_pictures_say_nothing_of_what_made_them(run):
    found = open_contest(run.out)
    shown = found.picture(next(iter(found.scrolls)))
    assert shown[:4] == b"RIFF" and b"Painter" not in shown and b"EXIF" not in shown


# How it is kept --------------------------------------------------------------------------------


def test_a_vote_is_there_at_once_the_last_one_counts_and_an_undone_one_does_not(tmp_path):
    ledger = Ledger(tmp_path / "new" / "votes.jsonl")
    ledger.add(vote("first"), upper="a", seconds=2)
    ledger.add(vote("tie", judge="bob"), upper="b", seconds=2)
    ledger.add(vote("second"), upper="a", seconds=2)
    assert [v.verdict for v in ledger.votes()] == ["second", "tie"]
    ledger.take_back("ann", "ab")
    assert [v.judge for v in ledger.votes()] == ["bob"]


def test_a_line_that_a_kill_cut_short_is_left_out_and_the_next_vote_is_whole(tmp_path):
    ledger = Ledger(tmp_path / "votes.jsonl")
    ledger.add(vote("first"), upper="a", seconds=2)
    with ledger.path.open("ab") as file:
        file.write(b'{"judge": "ann", "ball')
    assert len(ledger.votes()) == 1
    ledger.add(vote("tie", first="c"), upper="c", seconds=2)
    assert [v.first for v in ledger.votes()] == ["a", "c"]
    assert all(json.loads(line) for line in ledger.path.read_text().splitlines())


@pytest.mark.parametrize(
    "line", [b"nonsense", b'{"judge": "a"}', b'{"judge":"a","ballot":"b","verdict":"x"}']
)
def test_a_line_that_is_none_is_named(line):
    good = json.dumps(dict.fromkeys(("judge", "ballot", "first", "second"), "x") | {"verdict": "tie"})
    with pytest.raises(UserError, match="line 1 is no vote"):
        standing(line + b"\n" + good.encode() + b"\n")


WRITER = """
import sys
from pathlib import Path
from dataset_builder.votes.ledger import Ledger
from pipeline.pairs.votes import Vote
ledger = Ledger(Path(sys.argv[1]))
for n in range(100000):
    vote = Vote(judge=sys.argv[2], ballot=str(n), first="a", second="b", verdict="tie")
    ledger.add(vote, upper="a", seconds=1)
    print(n, flush=True)
"""


def test_two_writers_and_kills_lose_no_vote_that_was_answered(tmp_path, repository):
    path = tmp_path / "votes.jsonl"
    counts = {"ann": 0, "bob": 0}
    for _ in range(2):
        running = {
            judge: subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), judge],
                cwd=repository,
                stdout=subprocess.PIPE,
                text=True,
            )
            for judge in counts
        }
        for judge, program in running.items():
            for _ in range(5):
                program.stdout.readline()
            program.send_signal(signal.SIGKILL)
            said = program.stdout.read().split()
            program.wait()
            counts[judge] = max(counts[judge], int(said[-1]) + 1 if said else 5)
    kept = Ledger(path).votes()
    for judge, count in counts.items():
        assert {v.ballot for v in kept if v.judge == judge} >= {str(n) for n in range(count)}


# What comes of it ------------------------------------------------------------------------------


def test_strengths_are_those_that_the_votes_were_drawn_from():
    true = np.array([1.2, 0.3, -0.5, -1.0])
    rng = np.random.default_rng(0)
    wins = np.zeros((4, 4))
    for a in range(4):
        for b in range(a):
            won = rng.binomial(4000, 1 / (1 + math.exp(true[b] - true[a])))
            wins[a, b], wins[b, a] = won, 4000 - won
    assert np.abs(strengths(wins) - true).max() < 0.06
    assert np.isfinite(strengths(np.array([[0.0, 5.0], [0.0, 0.0]]))).all()  # one who never lost


def test_methods_are_ranked_with_intervals_that_need_five_prompts():
    found = contest(8)
    votes = [vote("first", f"drspo-{n}", f"mad-{n}") for n in range(8)]
    votes += [vote("second", f"sdxl-{n}", f"mad-{n}") for n in range(8)]
    told = results(found, votes)
    assert [one["method"] for one in told["methods"]] == ["drspo", "mad", "sdxl"]
    best = told["methods"][0]
    assert best["low"] <= best["chance"] <= best["high"] and (best["wins"], best["votes"]) == (8, 8)
    assert results(found, votes[:3])["methods"][0]["low"] is None
    assert "drspo" in table(told) and "nobody has voted" in table(results(found, []))


def test_two_methods_that_never_met_anybody_have_no_place():
    assert methods([vote("tie", "x", "x")], {"x": "mad"}, {"x": "p"}) == []


def test_agreement_is_one_for_the_same_words_and_about_zero_for_chance():
    same = [
        vote(v, ballot=str(n), judge=j) for n, v in enumerate(["first", "second", "tie"] * 5) for j in "ab"
    ]
    assert agreement(same) == (1.0, 1.0, 15)
    rng = np.random.default_rng(1)
    chance = [vote(rng.choice(["first", "second"]), ballot=str(n), judge=j) for n in range(800) for j in "ab"]
    share, alpha, _ = agreement(chance)
    assert share == pytest.approx(0.5, abs=0.06) and alpha == pytest.approx(0, abs=0.12)
    assert math.isnan(agreement([vote("tie")])[0])


def test_votes_become_pairs_with_the_margin_of_the_majority(run, tmp_path):
    found = open_contest(run.out)
    asked = ballots(found, per_prompt=2)
    ledger = Ledger(tmp_path / "votes.jsonl")
    for number, ballot in enumerate(asked):
        for judge in ("ann", "bob", "cy"):
            verdict = "tie" if number == 0 else "first" if judge != "cy" or number % 2 else "second"
            ledger.add(
                vote(verdict, ballot.first.name, ballot.second.name, judge, ballot.name), upper="", seconds=1
            )
    place = f"{run.out}/votes.jsonl"
    shutil.copy(ledger.path, place)
    config = replace(run, pairs=replace(run.pairs, source="votes", validation_fraction=0.0))
    try:
        outcome = build(config)
        assert outcome.pairs == {"train": len(asked) - 1} and outcome.made_now == 0
        files = [
            pq.read_table(path) for path in sorted((tmp_path.parent / run.out / "export" / "data").glob("*"))
        ]
        rows = [row for file in files for row in file.to_pylist()]
        wanted = {
            ballot.first.name: (1 / 3 if number % 2 == 0 else 1.0) for number, ballot in enumerate(asked)
        }
        assert len(rows) == len(asked) - 1
        for row in rows:
            margins = [
                1.0 if n % 2 else 1 / 3
                for n, b in enumerate(asked)
                if {b.first.name, b.second.name} == {row["chosen_id"], row["rejected_id"]}
            ]
            assert row["margin"] == pytest.approx(margins[0]) and row["chosen_id"] in wanted
            assert row["chosen_score"] + row["rejected_score"] == pytest.approx(1)
        assert "chosen" in Path(write(run.out, str(tmp_path / "page.html"))).read_text()
    finally:
        os.unlink(place)


def test_three_votes_of_five_are_a_margin_of_a_fifth(run):
    candidates = pl.read_parquet(f"{run.out}/scores.parquet")
    one, other = candidates.filter(prompt_id=candidates["prompt_id"][0])["candidate_id"][:2]
    votes = [vote("first" if n < 3 else "second", one, other, f"judge{n}") for n in range(5)]
    asked = PairSettings(source="votes", min_margin=0.2)
    pairs = choose_pairs(candidates, asked, ("Brightness", "Contrast"), votes)
    told = pairs.select("chosen_id", "margin", "chosen_score", "rejected_score")
    assert told.rows() == [(one, 0.2, 0.6, 0.4)]


def test_pairs_of_votes_that_nobody_gave_are_refused(run):
    config = replace(run, pairs=replace(run.pairs, source="votes"))
    with pytest.raises(UserError, match="nobody has voted"):
        build(config)
    assert read_votes(open_run(run)) == []


def test_what_weighs_scores_has_no_say_where_votes_decide_and_that_is_said(run, caplog):
    """A preset weighs scores; who asks for votes need not take that back first."""
    candidates = pl.read_parquet(f"{run.out}/scores.parquet")
    votes = [
        vote("first", ballot.first.name, ballot.second.name, "ann", ballot.name)
        for ballot in ballots(open_contest(run.out), per_prompt=2)
    ]
    plain = PairSettings(source="votes", validation_fraction=0.0)
    weighed = replace(plain, weights=("Brightness=1", "Contrast=-1"), normalise="zscore", method="pareto")
    scorers = ("Brightness", "Contrast")
    with caplog.at_level("INFO"):
        pairs = choose_pairs(candidates, weighed, scorers, votes)
    assert pairs.height and pairs.equals(choose_pairs(candidates, plain, scorers, votes))
    assert "pairs.weights, pairs.method, pairs.normalise have no say" in caplog.text


def open_run(config):
    from drspo.files.run import RunDir

    return RunDir(config.out)


# The page --------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path):
    state = Judges(contest(2), ballots(contest(2), per_prompt=1), Ledger(tmp_path / "v.jsonl"), "a run")
    return TestClient(application(state, TOKEN), base_url="http://127.0.0.1"), state


def test_a_judge_is_asked_answers_takes_back_and_sees_the_tables_at_the_end(page):
    client, state = page
    told = client.get(f"/{TOKEN}/ask?judge=ann").json()
    assert (told["done"], told["total"]) == (0, 2) and "mad" not in json.dumps(told)
    first = told["ballot"]["name"]
    told = client.post(f"/{TOKEN}/vote", json={"judge": "ann", "ballot": first, "verdict": "upper"}).json()
    assert told["done"] == 1 and "results" not in told
    ballot = state.ballots[first]
    upper = state.sides(ballot, "ann")[0]
    assert state.ledger.votes()[0].verdict == ("first" if upper == ballot.first.name else "second")
    assert client.post(f"/{TOKEN}/undo", json={"judge": "ann"}).json()["done"] == 0
    for _ in range(2):
        name = client.get(f"/{TOKEN}/ask?judge=ann").json()["ballot"]["name"]
        told = client.post(f"/{TOKEN}/vote", json={"judge": "ann", "ballot": name, "verdict": "bad"}).json()
    assert told["ballot"] is None and told["results"]["judges"][0]["votes"] == 2
    assert client.get(f"/{TOKEN}/ask?judge=bob").json()["done"] == 0


def test_a_picture_comes_without_its_name(page):
    client, state = page
    ballot = next(iter(state.ballots))
    answer = client.get(f"/{TOKEN}/picture/{ballot}/upper?judge=ann")
    assert answer.headers["content-type"] == "image/webp" and answer.content[:4] == b"RIFF"


@pytest.mark.parametrize(
    "path",
    ["/", "/wrong/", "/wrong/ask?judge=a", f"/{TOKEN}/picture/none/upper?judge=a", f"/{TOKEN}/../etc/passwd"],
)
def test_nothing_is_found_without_the_token_or_beside_the_page(page, path):
    assert page[0].get(path).status_code in (404, 400)


def test_a_stranger_whose_name_points_here_is_turned_away(page):
    answer = page[0].get(f"/{TOKEN}/", headers={"host": "evil.example"})
    assert answer.status_code == 400 and "scroll" not in answer.text


@pytest.mark.parametrize(
    "told",
    [
        {"judge": "", "ballot": "x", "verdict": "upper"},
        {"judge": "a" * 61, "ballot": "x", "verdict": "upper"},
        {"judge": "a\u0007b", "ballot": "x", "verdict": "upper"},
        {"judge": "ann", "ballot": "unknown", "verdict": "upper"},
        {"judge": "ann", "verdict": "first"},
        {"judge": "ann", "pad": "x" * 20_000},
        [],
    ],
)
def test_what_is_no_vote_is_refused_and_not_kept(page, told):
    client, state = page
    if isinstance(told, dict) and told.get("ballot") == "x":
        told["ballot"] = next(iter(state.ballots))
    assert client.post(f"/{TOKEN}/vote", json=told).status_code == 400
    form = client.post(
        f"/{TOKEN}/vote", data={"judge": "ann", "ballot": next(iter(state.ballots)), "verdict": "tie"}
    )
    assert form.status_code == 400 and state.ledger.votes() == []


def test_the_page_runs_its_own_script_alone_and_asks_only_this_server(page):
    answer = page[0].get(f"/{TOKEN}/")
    policy = answer.headers["content-security-policy"]
    nonce = re.search(r"nonce-([\w-]+)", policy)[1]
    assert answer.text.count(f'<script nonce="{nonce}">') == answer.text.count("<script") == 2
    assert "default-src 'none'" in policy and not re.search(r"https?://", answer.text)


ACTS = """
const wait = ms => new Promise(done => setTimeout(done, ms)), said = [];
addEventListener("load", async () => {
  document.getElementById("name").value = "ann";
  document.getElementById("who").requestSubmit();
  await wait(1500);
  const image = document.querySelector("#upper img");
  said.push(document.getElementById("count").textContent, "picture " + image.naturalWidth);
  dispatchEvent(new KeyboardEvent("keydown", { key: "a" }));
  await wait(1500);
  said.push(document.getElementById("count").textContent);
  dispatchEvent(new KeyboardEvent("keydown", { key: "u" }));
  await wait(1500);
  said.push(document.getElementById("count").textContent);
  document.getElementById("upper").click();
  await wait(300);
  said.push("viewer " + document.querySelector("dialog").open);
  document.title = said.join("; ");
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_two_scrolls_and_keeps_an_answer_from_the_keyboard(page, tmp_path, monkeypatch):
    """The page itself in a real browser, with a script of the test's beside its own."""
    import socket
    import threading

    import uvicorn

    from dataset_builder.votes import server

    _, state = page
    template = server._template()
    monkeypatch.setattr(server, "_template", lambda: WithActs(template))
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(state, TOKEN), log_level="error")
    program = uvicorn.Server(config)
    thread = threading.Thread(target=program.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/"
        asked = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        more = ["--timeout=20000", "--virtual-time-budget=12000", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run(
            [*asked, *more, address], capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        program.should_exit = True
        thread.join(120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)[1]
    assert title == (
        "0 of 2 by you, 0 by all; picture 64; 1 of 2 by you, 1 by all; 0 of 2 by you, 0 by all; viewer true"
    )


class WithActs:
    """The page's template with the test's script at its end."""

    def __init__(self, template):
        self.template = template

    def render(self, *, nonce, **told):
        script = f'<script nonce="{nonce}">{ACTS}</script></body>'
        return self.template.render(nonce=nonce, **told).replace("</body>", script)


# The command -----------------------------------------------------------------------------------


def test_the_command_serves_and_ends_with_the_next_step(run, tmp_path, repository):
    votes = tmp_path / "votes.jsonl"
    argv = [sys.executable, "-m", "drspo", "vote", run.out, "--votes", str(votes)]
    program = subprocess.Popen(
        argv, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = program.stdout.readline()
    address = program.stdout.readline().strip()
    import urllib.request

    deadline = time.monotonic() + 120
    while True:
        try:
            text = urllib.request.urlopen(address, timeout=60).read().decode()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    rest, errors = program.communicate(timeout=120)
    assert f"{3 * len(IDEAS)} comparisons" in said and address.startswith("http://127.0.0.1:")
    assert "Which scroll" in text and errors == ""
    pairs = f"python -m dataset_builder --config {run.out}/config.yaml --pairs.source votes"
    assert f"next: drspo vote {run.out} --results; pairs of them: {pairs}" in rest


def test_results_and_an_export_for_label_studio(run, tmp_path, capsys):
    found = open_contest(run.out)
    ballot = ballots(found)[0]
    votes = tmp_path / "votes.jsonl"
    ledger = Ledger(votes)
    ledger.add(vote("second", ballot.first.name, ballot.second.name, "ann", ballot.name), upper="", seconds=1)
    ledger.add(vote("bad", ballot.first.name, ballot.second.name, "bob", ballot.name), upper="", seconds=1)
    assert main([run.out, "--votes", str(votes), "--results"]) == 0
    assert "judge ann: 1 votes" in capsys.readouterr().out
    folder = tmp_path / "studio"
    assert main([run.out, "--votes", str(votes), "--label-studio", str(folder)]) == 0
    tasks = json.loads((folder / "tasks.json").read_text())
    assert len(tasks) == 3 * len(IDEAS)
    said = [answer["result"][0]["value"] for answer in tasks[0]["annotations"]]
    assert said == [{"selected": "right"}, {"choices": ["bad"]}]
    assert (folder / tasks[0]["data"]["first"].partition("studio/")[2]).exists()
    with pytest.raises(UserError, match="an export already"):
        main([run.out, "--votes", str(votes), "--label-studio", str(folder)])


@pytest.mark.parametrize("argv", [["--per-prompt", "0"], ["--checks", "1"], ["--port", "99999"]])
def test_settings_that_mean_nothing_are_refused(run, argv):
    with pytest.raises(UserError):
        main([run.out, *argv])


def test_a_folder_with_nothing_to_judge_is_refused(tmp_path):
    with pytest.raises(UserError):
        main([str(tmp_path)])
    with pytest.raises(UserError, match="local file"):
        main(["s3://bucket/run", "--results"])
