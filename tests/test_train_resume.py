"""Going on with a run: only on the pairs it was begun with, from a whole checkpoint, alone in its folder."""

import io
import json
import os
import shlex
import shutil
import signal
import threading
import time

import pytest
import torch
from PIL import Image

from drspo import cli
from drspo.errors import UserError
from tests.train_pairs import pair_rows, write
from tests.train_runs import flags, records, train, weights
from train.command import main
from train.lock import FolderLock
from train.objective.draws import step_draw
from train.settings import NoiseConfig

SMALL = (32, 64)


@pytest.fixture
def source(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("DRSPO_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "pairs.parquet", pair_rows(5, SMALL))


def contents(folder) -> dict:
    own = ("log.txt", "config.yaml")
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in own}


def test_a_run_whose_data_changed_is_refused_and_the_folder_left_as_it_was(golden, source, tmp_path):
    out = train(golden, source, tmp_path / "run", max_steps=2)
    before = contents(out)
    write(tmp_path / "pairs.parquet", pair_rows(4, SMALL) + pair_rows(1, SMALL, start=9))
    with pytest.raises(UserError, match="1 pairs are new or altered, 1 are gone or altered"):
        main(["--resume", str(out), "--max-steps", "4"])
    assert contents(out) == before


def test_a_list_that_was_edited_is_refused(golden, source, tmp_path):
    out = train(golden, source, tmp_path / "run", max_steps=2)
    text = (out / "pairs.json").read_text()
    (out / "pairs.json").write_text(text.replace("at dusk number 1", "at dawn number 1"))
    with pytest.raises(UserError, match="pairs are not those that this run was begun with"):
        main(["--resume", str(out), "--max-steps", "4"])


@pytest.mark.parametrize("change", ["touched", "gone", "cache lost"])
def test_the_same_pairs_go_on_whatever_happened_to_their_files(golden, source, tmp_path, change):
    whole = train(golden, source, tmp_path / "whole", max_steps=4)
    out = train(golden, source, tmp_path / "run", max_steps=2)
    if change == "touched":
        os.utime(source, (1, 1))
    elif change == "gone":
        os.unlink(source)
    else:
        shutil.rmtree(tmp_path / "cache")
    assert main(["--resume", str(out), "--max-steps", "4"]) == 0
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_run_of_an_earlier_version_goes_on_and_says_what_cannot_be_checked(
    golden, source, tmp_path, caplog
):
    out = train(golden, source, tmp_path / "run", max_steps=2)
    state, listing = out / "checkpoints" / "step-000002" / "state.json", out / "pairs.json"
    for path, names in ((state, ("origin", "pairs")), (listing, ("source",))):
        facts = inner = json.loads(path.read_text())
        for name in names[:-1]:
            inner = inner[name]
        del inner[names[-1]]
        path.write_text(json.dumps(facts))
    assert main(["--resume", str(out), "--max-steps", "3"]) == 0
    assert "does not say which pairs it was trained on" in caplog.text and len(records(out)) == 3


def damage(path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_taken(golden, source, tmp_path, caplog):
    whole = train(golden, source, tmp_path / "whole", max_steps=6)
    out = train(golden, source, tmp_path / "run", max_steps=4)
    damage(out / "checkpoints" / "step-000004" / "optimizer.pt")
    with caplog.at_level("INFO"):
        assert main(["--resume", str(out), "--max-steps", "6"]) == 0
    assert "set aside as damaged-step-000004" in caplog.text
    assert "continuing from step-000002 at step 2 of 6" in caplog.text
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(out).items())


def test_where_no_checkpoint_is_whole_nothing_is_thrown_away(golden, source, tmp_path):
    out = train(golden, source, tmp_path / "run", max_steps=4)
    for path in (out / "checkpoints").glob("step-*"):
        (path / "state.json").write_text("{")
    before = contents(out)
    with pytest.raises(UserError, match="none of the run's checkpoints is whole"):
        main(["--resume", str(out), "--max-steps", "6"])
    assert contents(out) == before


def test_a_folder_that_another_run_holds_is_refused(golden, source, tmp_path):
    with FolderLock(tmp_path / "run"), pytest.raises(UserError, match="another run works in this folder"):
        train(golden, source, tmp_path / "run", max_steps=1)


def test_sigterm_ends_a_run_as_ctrl_c_does_and_the_same_command_goes_on(golden, source, tmp_path, capsys):
    out = tmp_path / "a run"
    argv = [*flags(golden, source), "--out", str(out)]

    def end() -> None:
        while not (out / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    assert cli.execute(main, [*argv, "--max-steps", "500"]) == cli.TERMINATED == 143
    thread.join()
    assert "Terminated. To continue, type the same again" in capsys.readouterr().err
    assert not (out / "lock.json").exists()
    done = len(records(out))
    assert cli.execute(main, [*argv, "--max-steps", str(done + 1)]) == 0
    assert len(records(out)) == done + 1


def test_a_pair_that_is_drawn_twice_in_one_step_gets_another_noise_and_timestep(golden, tmp_path):
    draws = [step_draw(0, position, "pair", (1, 4, 2, 2), 1000, NoiseConfig()) for position in (6, 7)]
    assert draws[0].t != draws[1].t and not torch.equal(draws[0].noise_w, draws[1].noise_w)
    source = write(tmp_path / "one.parquet", pair_rows(1, SMALL))
    settings = {"pairs_per_step": 2, "data__validation_pairs": 0, "data__cache": tmp_path / "cache"}
    out = train(golden, source, tmp_path / "run", max_steps=2, **settings)
    second = records(out)[1]
    assert second["pairs"] == 2 and second["z_min"] != second["z_max"]


@pytest.fixture
def overflowing(monkeypatch):
    """Makes the autoencoder overflow on the pictures that it is told of."""
    from train.pairs import prepare

    real, bad = prepare.encode_images, []

    def encode(vae, images):
        overflows = any(torch.equal(images, other) for other in bad)
        return real(vae, images) * (float("nan") if overflows else 1)

    monkeypatch.setattr(prepare, "encode_images", encode)
    return lambda data: bad.append(prepare.from_pil([prepare.canvas_picture(data, *SMALL)]))


@pytest.mark.parametrize("group", ["train", "held_out"])
def test_latents_that_are_not_finite_are_never_cached_and_their_pair_is_named(
    golden, source, tmp_path, overflowing, caplog, group
):
    rows = pair_rows(12, SMALL)
    write(tmp_path / "pairs.parquet", rows)
    first = train(golden, source, tmp_path / "first", max_steps=1)
    pair_id = json.loads((first / "pairs.json").read_text())[group][0]["pair_id"]
    shutil.rmtree(tmp_path / "cache")
    overflowing(next(row for row in rows if row["pair_id"] == pair_id)["rejected"]["bytes"])
    out = train(golden, source, tmp_path / "run", max_steps=2, validation__every=1)
    (dropped,) = records(out, "dropped.jsonl")
    assert dropped["pair_id"] == pair_id and dropped["reason"] == "the latents of rejected are not finite"
    assert f"first: {pair_id}" in caplog.text
    measured = records(out, "validation.jsonl")
    assert len(measured) == 3 and all(record["bad"] == 0 for record in records(out) + measured)


def test_latents_that_an_earlier_version_cached_though_not_finite_are_made_again(golden, source, tmp_path):
    from safetensors.torch import load_file, save_file

    train(golden, source, tmp_path / "first", max_steps=1)
    entry = next((tmp_path / "cache" / "latents").rglob("*.safetensors"))
    whole = load_file(entry)
    save_file({"latents": whole["latents"] * float("inf")}, entry)
    out = train(golden, source, tmp_path / "second", max_steps=1)
    assert torch.equal(load_file(entry)["latents"], whole["latents"])
    assert (out / "dropped.jsonl").read_text() == ""


def test_equal_pictures_in_other_files_are_dropped_with_the_reason(golden, tmp_path):
    rows = pair_rows(3, SMALL)
    again = io.BytesIO()
    Image.open(io.BytesIO(rows[1]["chosen"]["bytes"])).save(again, format="WebP", lossless=True)
    rows[1]["rejected"]["bytes"] = again.getvalue()
    source = write(tmp_path / "pairs.parquet", rows)
    settings = {"data__validation_pairs": 0, "data__cache": tmp_path / "cache"}
    out = train(golden, source, tmp_path / "run", max_steps=1, **settings)
    (dropped,) = records(out, "dropped.jsonl")
    assert (dropped["pair_id"], dropped["reason"]) == ("pair-1", "chosen and rejected are the same picture")


def test_a_finished_training_prints_a_next_command_that_exists(golden, source, tmp_path, capsys):
    from generate.program.command import main as generate

    train(golden, source, tmp_path / "a run", max_steps=1)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next  ")]
    arguments = shlex.split(said[0].removeprefix("next"))
    assert arguments[:3] == ["python", "-m", "generate"] and str(tmp_path / "a run") in arguments
    with pytest.raises(SystemExit) as ended:
        generate([*arguments[3:], "--print-config"])
    assert ended.value.code == 0 and flags(golden, source)[1] in capsys.readouterr().out
