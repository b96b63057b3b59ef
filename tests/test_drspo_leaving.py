"""What leaves this machine: names stay, places, people and secrets go; foreign text stays text."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from drspo import markup
from drspo.errors import UserError
from drspo.leaving import is_place, public, public_name, public_text, refuse_secrets, without_secrets


@pytest.fixture(autouse=True)
def marked(monkeypatch, tmp_path):
    """An account, a machine and credentials with names of their own."""
    for variable in ("USER", "LOGNAME"):
        monkeypatch.setenv(variable, "mrkuser")
    monkeypatch.setenv("HOME", "/home/mrkuser")
    monkeypatch.setenv("OPENAI_API_KEY", "mrk-secret-key")
    monkeypatch.setenv("HTTPS_PROXY", "http://mrkuser:mrkpassword@proxy.example:3128")
    monkeypatch.setattr("socket.gethostname", lambda: "mrkhost.example.org")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "place, name",
    [
        ("/home/mrkuser/models/my-sdxl", "my-sdxl"),
        ("/home/mrkuser/models/my-sdxl/", "my-sdxl"),
        ("/home/mr kuser/my model", "my model"),
        ("~/models/my-sdxl", "my-sdxl"),
        ("./my-sdxl", "my-sdxl"),
        ("../../my-sdxl", "my-sdxl"),
        ("a/b/my-sdxl", "my-sdxl"),
        ("data/ideas.txt", "ideas.txt"),
        ("C:\\Users\\mrkuser\\ideas.txt", "ideas.txt"),
        ("\\\\server\\share\\ideas.txt", "ideas.txt"),
        ("file:///home/mrkuser/ideas.txt", "ideas.txt"),
        ("s3://mrk-bucket/runs/one", "one"),
        ("https://user:pass@intranet.example/x/ideas.jsonl?token=abc", "ideas.jsonl"),
        ("/home/mrkuser", "unnamed"),
        ("~", "unnamed"),
        ("~mrkuser", "unnamed"),
        ("s3://mrk-bucket", "unnamed"),
        ("http://10.1.2.3:8000", "unnamed"),
        ("https://huggingface.co/datasets/someone/pairs", "someone/pairs"),
        ("hf://datasets/someone/pairs/data/*.parquet", "someone/pairs"),
    ],
)
def test_a_place_becomes_a_name(place, name):
    assert is_place(place)
    assert public_name(place) == public(place) == name
    assert public_name(name) == name, "a name stays as it is"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "miniature",
        "sdxl",
        "corpus",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "mrkuser/their-own-hub-repository",
        "package:miniature/weights/sdxl",
        "my_module:MyMethod",
        "ideas.txt",
        "1e-5",
        "a castle and/or a tower, 16/9",
        "~5 minutes of rain over a castle",
        "blue.channel=2",
    ],
)
def test_names_ids_and_words_stay(name):
    assert public(name) == public_name(name) == name


def test_a_folder_that_looks_like_an_id_is_a_place(tmp_path):
    assert public_name("runs/blueprint") == "runs/blueprint"
    (tmp_path / "runs/blueprint").mkdir(parents=True)
    assert public_name("runs/blueprint") == "blueprint"
    assert public_name(".") == tmp_path.name


@pytest.mark.parametrize(
    "text, said",
    [
        ("cannot open /home/mrkuser/a b/x.py: no", "cannot open a b/x.py: no"),
        ("cannot open '/data/mrk/x.py'", "cannot open 'x.py'"),
        ("HTTPConnectionPool(host='mrkserver', port=80)", "HTTPConnectionPool(host='(an address)', port=80)"),
        ("Cannot connect to host llm.mrk.example:8000 ssl", "Cannot connect to host (an address) ssl"),
        ("at http://llm.mrk.internal:8000/v1/chat now", "at (an address) now"),
        ("no route to 10.20.30.40", "no route to (an address)"),
        ("mrkhost refused mrkuser, MRKUSER@mrkhost.example.org", "unnamed refused unnamed, unnamed@unnamed"),
        ("key mrk-secret-key, hf_abcdefghijk", "key ***, ***"),
        ("see https://huggingface.co/docs and opencv 4.10.0.84", None),
        ("3 / 4 at 10 it/s, and/or ideas.txt:12: too long", None),
    ],
)
def test_messages_lose_places_people_and_secrets(text, said):
    assert public_text(text) == (text if said is None else said)


def test_a_configuration_keeps_its_shape_and_its_numbers():
    config = {
        "model": "/data/mrk/base",
        "steps": 3,
        "rates": (1.5, None, True),
        "llm": {"base_url": "http://llm.mrk:8000/v1", "key_variable": "OPENAI_API_KEY", "token_budget": 7},
        "open": {"base_url": "https://api.openai.com/v1"},
        "wandb_token": "anything",
    }
    assert public(config) == {
        "model": "base",
        "steps": 3,
        "rates": [1.5, None, True],
        "llm": {"base_url": "", "key_variable": "OPENAI_API_KEY", "token_budget": 7},
        "open": {"base_url": "https://api.openai.com/v1"},
        "wandb_token": "***",
    }


@pytest.mark.parametrize(
    "field",
    "secret_key access_key api_key apiKey access_key_id passphrase db_pwd bearer auth proxy_auth credentials "
    "session_cookie private hf_token client_secret jwt Authorization api_keys".split(),
)
def test_a_secret_of_any_name_is_cut_from_options_and_fields_and_known_as_a_variable(field, monkeypatch):
    value = "q9w8e7r6t5y4"
    assert public({field: value}) == {field: "***"}
    assert public({"options": [f"my:G.{field}={value}"]}) == {"options": [f"my:G.{field}=***"]}
    monkeypatch.setenv(field.upper(), value)
    assert value not in without_secrets(f"it said {value}")


def test_no_setting_of_ours_reads_as_a_secret(monkeypatch):
    for option in {*every_setting(), "max_tokens", "max_completion_tokens", "keys", "tokens"}:
        assert public({option: "x"}) == {option: "x"}
        assert public([f"near.{option}=7"]) == [f"near.{option}=7"]
    monkeypatch.setenv("PWD", "/the/folder/that/one/is/in")
    assert without_secrets("/the/folder/that/one/is/in") == "/the/folder/that/one/is/in"


def programs():
    """The settings of every program and generator."""
    from drspo.reference import PROGRAMS
    from drspo.registry import resolve
    from generate import GENERATORS

    yield from (resolve(target) for _, target in PROGRAMS.values())
    yield from (resolve(target).config_class for target in GENERATORS.values())


def fields(cls):
    """(name, type, default) of every setting of a dataclass and of the groups in it."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        made = field.default_factory
        default = made() if made is not dataclasses.MISSING else field.default
        yield field.name, hints[field.name], default
        yield from fields(hints[field.name]) if dataclasses.is_dataclass(hints[field.name]) else ()


def every_setting() -> set[str]:
    """The name of every setting of the programs, the generators and the scorers."""
    from drspo.registry import resolve
    from eval import METRICS

    found = {name for config in programs() for name, *_ in fields(config)}
    return found.union(*(inspect.signature(resolve(target)).parameters for target in METRICS.values()))


def every_word() -> set[str]:
    """Every registered name, choice and default of a setting, and a funnel's steps."""
    from eval import METRICS
    from eval.backbones.clip_open import BACKBONES
    from eval.backbones.heads import HEADS
    from generate import GENERATORS
    from generate.models.schedulers import SCHEDULERS
    from generate.models.specs import MODELS
    from pipeline import EXPANDERS, FILTERS
    from train import LOSSES

    def choices(kind):
        inner = typing.get_args(kind)
        if typing.get_origin(kind) is typing.Literal:
            return {each for each in inner if isinstance(each, str)}
        return set().union(*map(choices, inner))

    found = {"prompts", "accepted", "groups", "candidates", "pairs"}
    found.update(METRICS, BACKBONES, HEADS, GENERATORS, SCHEDULERS, MODELS, EXPANDERS, FILTERS, LOSSES)
    for config in programs():
        for _, kind, default in fields(config):
            values = default if isinstance(default, tuple) else (default,)
            found |= choices(kind) | {value for value in values if isinstance(value, str)}
    return {word for word in found if re.fullmatch(r"[\w.-]+", word)}


def test_an_account_called_like_a_word_of_ours_changes_no_setting(monkeypatch):
    words = sorted(every_word())
    parts = {part for word in words for part in re.findall(r"[a-z0-9]+", word.lower())}
    monkeypatch.setattr("drspo.leaving._own_names", lambda: iter(parts))
    assert public({"chosen": words}) == {"chosen": words}


def test_names_of_code_and_of_scores_stay_whoever_is_called_so(monkeypatch):
    monkeypatch.setenv("USER", "painter")
    monkeypatch.setenv("LOGNAME", "blue")
    config = {
        "generators": ["my.fakes:Painter", "mad"],
        "scorers": ["blue=my.fakes:Painter", "painter_key=clip"],
        "weights": ["blue=1", "painter_key=-1"],
        "loss": {"name": "blue:Painter"},
        "scores": {"Painter": {"mean": 1.0}, "my.fakes:Painter": 2.0},
        "decided_by": "1 blue - 0.5 Painter, each standardised",
    }
    assert public(config) == config
    assert public({"generators": ["/home/painter/x.py"], "model": "painter", "name": "blue"}) == {
        "generators": ["x.py"],
        "model": "unnamed",
        "name": "unnamed",
    }
    assert public({"painter at /home/painter/x.py: no": 1}) == {"unnamed at x.py: no": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("blurry/ugly/text", None),
        ("a user of mrkuser's kind, /no text, 3/4, the host castle", None),
        ("blurry, /home/mrkuser/bad/list.txt, ugly", "blurry, list.txt, ugly"),
        ("/home/mrkuser", "unnamed"),
        ("/home/mrkuser2, /data/mrkuser/x or ~mrkuser/y", "/home/mrkuser2, /data/unnamed/x or ~unnamed/y"),
        ("grass/home/mrkuser", "grass/home/unnamed"),
        ("mrkuser@mrkhost", "unnamed@unnamed"),
        ("file:///home/mrkuser/x", "(an address)"),
        ("like hf_abcdefghijk", "like ***"),
    ],
)
def test_what_is_to_be_painted_is_wording_and_no_place(text, said):
    wanted = text if said is None else said
    assert public({"negative_prompt": text}) == {"negative_prompt": wanted}
    assert public({"samples": {"prompts": [text]}}) == {"samples": {"prompts": [wanted]}}
    assert public([f"my:G.blueprint_prompt={text}"]) == [f"my:G.blueprint_prompt={wanted}"]


def test_leaving_twice_is_leaving_once():
    config = {"a": "/data/mrk/base", "b": "at http://x.mrk.internal/ by mrkuser", "c": "s3://b/c"}
    assert public(public(config)) == public(config)


def test_the_doctors_report_can_be_pasted(monkeypatch, capsys, tmp_path):
    from drspo import doctor

    (tmp_path / "mrkuser/work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "mrkuser"))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "mrkuser/work")
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "mrkuser" not in said and "mrk-secret-key" not in said and "~/work" in said


def test_secrets_are_cut_from_messages_and_refused_in_files():
    for secret in ("mrk-secret-key", "mrkpassword", "hf_abcdefghijklmnopqr", "sk-abcdefghijklmnop0qr"):
        assert secret not in without_secrets(f"x {secret} y")
        with pytest.raises(UserError, match="would publish") as caught:
            refuse_secrets(f"x {secret} y".encode(), "README.md")
        assert secret not in str(caught.value)
    assert without_secrets("http://a:b@c.d/") == "http://***@c.d/"
    for harmless in (b"\xff\x00 hf_abcdefghijklmnopqr", "hf_datasets", "the sk-learn-based-classifier"):
        refuse_secrets(harmless, "README.md")


HTML = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
EVIL = [
    "a lake | <script>alert(1)</script> ![x](y) `z`\u2028# hills",
    "[click](javascript:alert(1)) <img src=x onerror=alert(1)>",
    "**bold** _it_ ~~gone~~ &lt;b&gt; \\*x\\* \\",
    "1. one\n2. two\n\n# head\n---\n- item\n> quote",
    "```\ncode\n~~~ <https://evil.example> www.evil.example",
    ']] ) " onload="x | | |',
    "===",
]


def shown(html: str) -> str:
    """What a reader sees: the text without its tags."""
    import html as entities
    import re

    return entities.unescape(re.sub(r"<[^>]*>", "", html)).replace("\u200b", "").strip()


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.sampled_from(EVIL), st.text(alphabet=st.sampled_from("ab1 .\\`*_{}[]()<>#+-=|!~&;:/@$\n")))
)
def test_foreign_text_in_markdown_reads_as_written_and_does_nothing(text):
    flat = " ".join(text.split())
    for before, after, tag in (("", "", "p"), ("- x: ", "", "li"), ("| a |\n|---|\n| ", " |", "td")):
        html = HTML.render(f"{before}{markup.inline(text)}{after}")
        for forbidden in (
            "<script",
            "<img",
            "<a ",
            "<h1",
            "<h2",
            "<code",
            "<em",
            "<strong",
            "<ol",
            "<s>",
            "<pre",
        ):
            assert forbidden not in html, (text, html)
        body = shown(html[html.rindex(f"<{tag}") :]) if flat and f"<{tag}" in html else ""
        assert body.removeprefix("x: ").strip() == flat, html
    alt = HTML.render(f"![{markup.inline(text)}](a.webp)")
    assert alt.startswith('<p><img src="a.webp" alt="') and alt.count("<") == 3


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.sampled_from(EVIL), st.text(alphabet=st.sampled_from("ab `|\\~<>\n"))))
def test_foreign_text_as_code_stays_inside_its_fence(text):
    flat = " ".join(text.split())
    if flat:
        html = HTML.render(f"x {markup.code(text)} y")
        assert html.startswith("<p>x <code>") and html.endswith("</code> y</p>\n") and html.count("<") == 4
        assert shown(html) == f"x {flat} y"
    block = HTML.render(markup.fenced(text, "text") + "\n\nafter")
    assert block.endswith("</code></pre>\n<p>after</p>\n") and block.count("<pre>") == 1
