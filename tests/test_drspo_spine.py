"""Errors, registry, hashing, run folder, progress and the wrapper of every program."""

from __future__ import annotations

import dataclasses
import json
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drspo import cli, consent, hashing, log, registry
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage


@dataclasses.dataclass(frozen=True)
class Settings:
    lr: float = 1.0
    name: str = "a"


# --- registry


def test_a_registered_name_is_imported_on_first_use():
    assert registry.lookup({"join": "os.path:join"}, "join", "function") is os.path.join


def test_a_plugin_is_written_module_colon_attribute(tmp_path, monkeypatch):
    (tmp_path / "my_plugin_module.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    consent.allow("my_plugin_module")
    assert registry.lookup({}, "my_plugin_module:Mine", "generator").__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("multidifusion", "Did you mean 'multidiffusion'?"),
        ("zzz", "Known: mad, multidiffusion."),
        ("no_such_module_here:Thing", "there is no module 'no_such_module_here'"),
        ("json:Thing", "module 'json' has no attribute 'Thing'"),
    ],
)
def test_an_unknown_name_teaches(name, says):
    consent.allow("no_such_module_here", "json:Thing")
    with pytest.raises(UserError) as caught:
        registry.lookup({"multidiffusion": "a:b", "mad": "a:c"}, name, "generator")
    assert says in str(caught.value) and "generator" in str(caught.value)


def test_a_missing_dependency_inside_a_plugin_is_not_called_a_missing_plugin(tmp_path, monkeypatch):
    (tmp_path / "plugin_with_a_gap.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    consent.allow("plugin_with_a_gap")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        registry.lookup({}, "plugin_with_a_gap:Thing", "scorer")


# --- hashing


def test_hashes_never_change_between_versions():
    assert hashing.content_hash("a", 1, b"x") == "4cd43baf13127cecb596563479ab4ebe"
    assert hashing.seed_from("prompt", "mad", 0) == 1337595649


def test_parts_are_kept_apart_and_typed():
    assert len({hashing.content_hash(*p) for p in [("ab", "c"), ("a", "bc"), ("abc",), (b"abc",)]}) == 4
    assert hashing.content_hash("1") != hashing.content_hash(1)
    with pytest.raises(TypeError):
        hashing.content_hash(1.5)


@given(st.lists(st.one_of(st.text(), st.binary(), st.integers())))
def test_a_seed_fits_every_generator(parts):
    assert 0 <= hashing.seed_from(*parts) < 2**31


# --- run folder


def test_a_run_begins_then_continues(tmp_path):
    run = RunDir(tmp_path / "run")
    assert run.start("train", Settings(), "h1") is False
    run.phase_done("plan", units=12)
    again = RunDir(tmp_path / "run")
    assert again.start("train", Settings(), "h1") is True
    assert again.phases()["plan"]["units"] == 12
    manifest = again.manifest()
    assert manifest["config"] == {"lr": 1.0, "name": "a"} and manifest["versions"]["python"]
    assert (tmp_path / "run" / "config.yaml").read_text() == "lr: 1.0\nname: a\n"


def test_a_folder_of_another_configuration_is_refused_with_the_difference(tmp_path):
    run = RunDir(tmp_path)
    run.start("train", Settings(), "h1")
    run.write("metrics.jsonl", b"a result")
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=r"lr: 1\.0 there, 2\.0 asked now") as caught:
        run.start("train", Settings(lr=2.0), "h2")
    assert "name" not in str(caught.value).replace(str(tmp_path), "")
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_a_folder_of_another_program_is_refused(tmp_path):
    RunDir(tmp_path).start("dataset_builder", Settings(), "h")
    with pytest.raises(UserError, match="run of 'dataset_builder', not of 'train'"):
        RunDir(tmp_path).start("train", Settings(), "h")


def test_what_does_not_change_results_may_differ_in_a_continued_run(tmp_path):
    RunDir(tmp_path).start("train", Settings(name="2 workers"), "same")
    assert RunDir(tmp_path).start("train", Settings(name="4 workers"), "same") is True


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        RunDir(tmp_path / "nothing").manifest()


def test_a_run_on_a_url_is_the_same_run(tmp_path):
    run = RunDir(f"memory://{tmp_path.name}/run")
    run.start("build", Settings(), "h")
    run.phase_done("a")
    assert json.loads(Storage(run.base).read("run.json"))["phases"].keys() == {"a"}


# --- progress


def test_progress_off_a_terminal_is_a_few_plain_lines(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(log.time, "monotonic", lambda: float(next(clock)))
    with log.progress(8, "units", "units") as bar:
        for _ in range(8):
            bar.advance(dead=0)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5
    assert lines[-1].startswith("units: 8/8 units, in ") and lines[-1].endswith("dead 0")


def test_work_found_done_does_not_flatter_the_rate():
    bar = log.Progress(100, "x", "units")
    bar.started -= 10
    bar.set(90)
    assert bar.begun_at == 90
    bar.advance(5)
    assert "5/100" in bar.line() and "95/100" in bar.line()
    assert "2.0 s each" in bar.line()


def test_only_the_first_rank_shows_progress(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with log.progress(2, "x", "units") as bar:
        bar.advance(2)
    assert capsys.readouterr().err == "" and bar.done == 2


def test_a_listener_hears_instead_of_a_bar(capsys):
    heard = []
    with log.listening(lambda bar: heard.append((bar.description, bar.done, bar.total))):
        with log.progress(2, "images", "units") as bar:
            bar.advance(2)
    assert heard == [("images", 2, 2)] and capsys.readouterr().err == ""


def test_the_log_file_gets_what_the_console_gets(tmp_path):
    before = list(logging.getLogger().handlers)
    try:
        log.setup(file=tmp_path / "deep" / "log.txt")
        logging.getLogger("train.loop").info("step %d", 7)
        assert "INFO    train.loop: step 7" in (tmp_path / "deep" / "log.txt").read_text()
    finally:
        for handler in set(logging.getLogger().handlers) - set(before):
            handler.close()
            logging.getLogger().removeHandler(handler)


def test_a_library_that_chats_on_the_root_logger_is_heard_from_warnings_on(tmp_path):
    before = list(logging.getLogger().handlers)
    chat = {"name": "root", "pathname": "/lib/site-packages/open_clip/factory.py"}
    try:
        log.setup(file=tmp_path / "log.txt")
        for level, said in (("INFO", "Loaded a config"), ("WARNING", "QuickGELU mismatch")):
            facts = {**chat, "levelno": getattr(logging, level), "levelname": level, "msg": said}
            logging.getLogger().handle(logging.makeLogRecord(facts))
        assert "Loaded a config" not in (tmp_path / "log.txt").read_text()
        assert "QuickGELU mismatch" in (tmp_path / "log.txt").read_text()
    finally:
        for handler in set(logging.getLogger().handlers) - set(before):
            handler.close()
            logging.getLogger().removeHandler(handler)


# --- the wrapper


def program_raising(error: BaseException):
    def program(argv: list[str]) -> int:
        raise error

    return program


def test_a_users_error_is_one_message_and_two(capsys):
    code = cli.execute(program_raising(UserError("height 4100 is odd", "my.yaml:7", "Nearest: 4096.")), [])
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    assert said == "error: height 4100 is odd (my.yaml:7)\n  Nearest: 4096.\n"


def test_debug_shows_the_traceback_of_a_users_error(capsys):
    assert cli.execute(program_raising(UserError("x")), [], debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_says_how_to_continue(capsys):
    assert cli.execute(program_raising(KeyboardInterrupt()), []) == 130
    assert "type the same again" in capsys.readouterr().err


def test_our_own_fault_is_one_with_its_traceback(capsys):
    assert cli.execute(program_raising(ZeroDivisionError("boom")), []) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "boom" in said


def test_a_full_disk_anywhere_is_the_users_to_mend(capsys):
    assert cli.execute(program_raising(OSError(28, "No space left on device", "/data/x.png")), []) == 2
    said = capsys.readouterr().err
    assert "No space left" in said and "/data/x.png" in said and "Traceback" not in said


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.execute(cli.main, ["genrate"]) == 2
    assert "Did you mean 'generate'?" in capsys.readouterr().err
