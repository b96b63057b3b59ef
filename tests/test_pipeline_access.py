"""A file may name a language model's server; a key goes there for the person's sake only."""

from __future__ import annotations

import pytest

from drspo import consent
from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.llm.access import key_for
from drspo.llm.settings import LLMSettings
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.prompts import expand
from pipeline.records import Prompt, prompt_id, prompt_table
from tests.hostile_llm import HostileLLM

SECRETS = {"OPENAI_API_KEY": "sk-the-persons-own", "AWS_SECRET_ACCESS_KEY": "wJalr-not-for-strangers"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-person")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer of-a-house\nX-Gateway: of-a-house")


class Eavesdropper(HostileLLM):
    """Keeps the headers of each request."""

    def handler(self):
        heard = self.headers = []

        class Handler(super().handler()):
            def do_POST(self):
                heard.append(str(self.headers))
                super().do_POST()

            def allowed(self):
                return True

        return Handler


@pytest.fixture
def server():
    with Eavesdropper() as found:
        yield found


def ask(settings, folder):
    table = prompt_table([Prompt(prompt_id=prompt_id("a calm lake"), text="a calm lake")])
    return expand(table, ExpandSettings(expander="llm"), settings, Storage(folder))


def settings_from_a_file(server, folder, *flags, **more):
    """As the builder loads them from a YAML that somebody shared."""
    from dataset_builder.config import BuildConfig
    from drspo.config import load

    file = folder / "shared.yaml"
    lines = "".join(f"  {key}: {value}\n" for key, value in more.items())
    file.write_text(f"llm:\n  model: tiny\n  base_url: {server.url}\n  max_retries: 0\n{lines}")
    return load(BuildConfig, ["--config", str(file), *flags], package="dataset_builder", prog="x").llm


def test_an_address_from_a_file_is_asked_without_a_key(server, tmp_path, caplog):
    with pytest.raises(UserError) as caught:
        ask(settings_from_a_file(server, tmp_path), tmp_path)
    sent = "\n".join(server.headers)
    assert server.headers and not any(secret in sent for secret in SECRETS.values())
    assert "org-of-the-person" not in sent and "of-a-house" not in sent
    assert (
        f"--llm.base-url {server.url}" in str(caught.value) and f"--llm.base-url {server.url}" in caplog.text
    )


def test_the_flag_that_repeats_the_address_sends_the_key(server, tmp_path):
    settings = settings_from_a_file(server, tmp_path, "--llm.base-url", server.url)
    assert key_for(settings) == SECRETS["OPENAI_API_KEY"]


def test_what_the_person_sends_along_goes_where_the_person_sends_it(server, tmp_path):
    with pytest.raises(UserError):  # a key of the house is not this server's
        ask(settings_from_a_file(server, tmp_path, "--llm.base-url", server.url), tmp_path)
    assert "x-gateway: of-a-house" in "\n".join(server.headers).casefold()


def test_the_environment_that_repeats_the_address_sends_the_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert key_for(settings_from_a_file(server, tmp_path)) == SECRETS["OPENAI_API_KEY"]


def test_a_file_cannot_name_another_secret(server, tmp_path):
    settings = settings_from_a_file(
        server, tmp_path, "--llm.base-url", server.url, key_variable="AWS_SECRET_ACCESS_KEY"
    )
    with pytest.raises(UserError, match="only a file says .* AWS_SECRET_ACCESS_KEY") as caught:
        ask(settings, tmp_path)
    assert "--llm.key-variable AWS_SECRET_ACCESS_KEY" in str(caught.value) and not server.headers
    assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_the_command_line_or_the_environment_names_another_variable(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-mine")
    address = ("--llm.base-url", server.url)
    by_flag = settings_from_a_file(server, tmp_path, *address, "--llm.key-variable", "MY_KEY")
    assert key_for(by_flag) == "sk-mine"
    consent._STATE = consent._State()
    monkeypatch.setenv("DRSPO_LLM_KEY_VARIABLE", "MY_KEY")
    assert key_for(settings_from_a_file(server, tmp_path, *address, key_variable="MY_KEY")) == "sk-mine"


def test_openais_own_address_needs_no_repeating():
    assert key_for(LLMSettings(model="x")) == SECRETS["OPENAI_API_KEY"]


@pytest.mark.parametrize(
    "address", ["ftp://x/v1", "http://", "//x", "http://x:99999/", "http://[::1/v1", "file:///etc/passwd", ""]
)
def test_what_is_no_servers_address_is_refused(address, tmp_path):
    with pytest.raises(UserError, match="is not the address of a server"):
        ask(LLMSettings(model="x", base_url=address), tmp_path)
