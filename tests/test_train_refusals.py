"""What is refused before the first byte is written, and that a mistake does not cost the folder."""

import os
from dataclasses import replace

import pytest

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.ranges import numbers, undeclared
from tests.train_pairs import pair_rows, write
from tests.train_runs import flags, records
from train.checks import OTHER_ENGINES, check_config, check_launch
from train.command import main, parse
from train.config import TrainConfig

SMALL = (32, 64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRSPO_CACHE", str(tmp_path / "cache"))


def config(*arguments: str) -> TrainConfig:
    return parse(["--config", "miniature", "--out", "x", "--data.source", "y", *arguments])


NUMBERS = {key: value for key, value, _ in numbers(TrainConfig())}


def test_every_number_of_the_configuration_has_a_range():
    assert list(undeclared(TrainConfig)) == []
    check_config(config())


@pytest.mark.parametrize("name", sorted(NUMBERS))
@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf", "-2"])
def test_no_number_may_be_negative_infinite_or_no_number(name, wrong):
    flag = "--" + name.replace("_", "-")
    if wrong != "-2" and not isinstance(NUMBERS[name], float):
        return  # tyro takes whole numbers only there
    with pytest.raises(UserError) as caught:
        config(flag, wrong)
    assert caught.value.where == flag


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optimizer.lr", "-1"],
        ["--optimizer.lr", "0"],
        ["--max-steps", "0"],
        ["--tracking.log-every", "0"],
        ["--lora.dropout", "1"],
        ["--memory.window-batch", "0"],
        ["--noise.t-min", "9", "--noise.t-max", "9"],
        ["--device", "tpu"],
        ["--loss.name", "dop"],
        ["--group-timeout", "0"],
        ["--canvas.height", "100"],
        ["--lora.targets", ""],
        ["--out", "s3://bucket/run"],
    ],
    ids=" ".join,
)
def test_a_mistake_leaves_nothing_behind(tmp_path, arguments):
    with pytest.raises(UserError):
        main(["--config", "miniature", "--data.source", "y", "--out", str(tmp_path / "run"), *arguments])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_result_takes_a_corrected_configuration(golden, tmp_path):
    source, out = write(tmp_path / "pairs.parquet", pair_rows(3, SMALL)), tmp_path / "run"
    with pytest.raises(UserError, match="none of 3 rows"):
        main([*flags(golden, source, canvas__height=64, canvas__width=128), "--out", str(out)])
    assert main([*flags(golden, source, max_steps=1, data__validation_pairs=0), "--out", str(out)]) == 0
    assert RunDir(out).manifest()["config"]["canvas"]["height"] == 32 and len(records(out)) == 1


def test_a_timestep_beyond_the_schedule_is_refused(golden, tmp_path):
    source = write(tmp_path / "pairs.parquet", pair_rows(2, SMALL))
    with pytest.raises(UserError, match="not in this checkpoint's schedule of 1000"):
        main([*flags(golden, source, noise__t_max=1001), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("program", "named"), [("dataset_builder", "the dataset builder"), ("eval", "the evaluation")]
)
def test_resuming_a_run_of_another_program_says_whose_it_is(tmp_path, program, named):
    RunDir(tmp_path).start(program, TrainConfig(), "h")
    with pytest.raises(UserError, match=f"this is a run of {named}"):
        main(["--resume", str(tmp_path)])


def test_resuming_a_run_with_a_plugin_loss_asks_for_the_command_lines_consent(tmp_path, monkeypatch):
    (tmp_path / "strange_loss.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    wanted = config()
    stored = replace(wanted, loss=replace(wanted.loss, name="strange_loss:loss"))
    RunDir(tmp_path / "run").start("train", stored, "h")
    with pytest.raises(UserError, match="code from outside") as caught:
        main(["--resume", str(tmp_path / "run")])
    assert "--allow-plugins strange_loss" in caught.value.hint


@pytest.mark.parametrize(("variable", "engine"), sorted(OTHER_ENGINES.items()))
def test_engines_that_shard_the_network_are_refused_by_name(variable, engine):
    with pytest.raises(UserError, match=f"does not run under {engine}"):
        check_launch(config(), {variable: "true", "WORLD_SIZE": "2"})
    check_launch(config(), {variable: "false"})


def launch_environment(arguments: list[str], monkeypatch) -> dict[str, str]:
    """The environment that `accelerate launch` gives a program, by its own code."""
    from accelerate.commands import launch

    seen: dict[str, str] = {}

    class Process:
        returncode = 0

        def __init__(self, _, env):
            seen.update(env)

        def wait(self):
            return 0

    monkeypatch.setattr(launch.subprocess, "Popen", Process)
    defaults = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch.launch_command(launch.launch_command_parser().parse_args([*arguments, *defaults, "train.py"]))
    return seen


def test_accelerate_launch_with_two_processes_on_a_cpu_is_refused_since_it_starts_one(monkeypatch):
    two = launch_environment(["--cpu", "--num_processes", "2"], monkeypatch)
    with pytest.raises(UserError, match="starts one process here") as caught:
        check_launch(config(), two)
    assert "torchrun --nproc_per_node 2" in caught.value.hint
    check_launch(config(), launch_environment(["--cpu", "--num_processes", "1"], monkeypatch))
    check_launch(config("--pairs-per-step", "2"), two | {"WORLD_SIZE": "2"})
    check_launch(config("--pairs-per-step", "2"), two | {"OMPI_COMM_WORLD_SIZE": "2"})


def test_pairs_that_do_not_divide_among_the_processes_are_refused_before_anything_is_loaded(monkeypatch):
    with pytest.raises(UserError, match="3 pairs per step cannot be shared by 2 processes"):
        check_launch(config("--pairs-per-step", "3"), os.environ | {"WORLD_SIZE": "2"})


def test_processes_wait_for_each_other_as_long_as_configured(monkeypatch):
    from train import launch

    seen = {}
    monkeypatch.setattr(launch, "Accelerator", lambda **arguments: seen.update(arguments))
    launch.make_accelerator(config("--group-timeout", "2.5", "--device", "cpu"))
    assert seen["kwargs_handlers"][0].timeout.total_seconds() == 150
    assert TrainConfig().group_timeout <= 60  # a dead peer is noticed within the hour


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (["--optimizer.name", "adamw8bit"], "bitsandbytes"),
        (["--tracking.tensorboard", "True"], "tensorboard"),
        (["--tracking.wandb-project", "scrolls"], "wandb"),
    ],
)
def test_a_package_that_is_missing_is_asked_for_before_anything_is_loaded(monkeypatch, arguments, package):
    monkeypatch.setattr("train.checks.find_spec", lambda name: None if name == package else object())
    with pytest.raises(UserError, match=f"{package} is not installed"):
        check_config(config(*arguments))


def test_layers_that_the_network_does_not_have_are_refused_before_any_pair_is_encoded(
    golden, tmp_path, monkeypatch
):
    from train import loop

    monkeypatch.setattr(loop, "prepare_pairs", lambda *_: pytest.fail("pairs were encoded first"))
    with pytest.raises(UserError, match="no layer of this network"):
        main([*flags(golden, "pairs.parquet", lora__targets="to_nowhere"), "--out", str(tmp_path / "run")])


def test_a_measurement_without_a_finite_number_is_said_and_ends_nothing():
    from train.report.tally import Tally
    from train.report.validation import held_out_line, pair_accuracy

    tally = Tally()
    assert tally.take(3, {"pairs": 2, "bad": 2}) is False and tally.best is None
    assert held_out_line({"pairs": 2, "bad": 2}) == "no finite figure"
    assert pair_accuracy([(0, {"margin": float("nan")})]) == {}
    assert pair_accuracy([(0, {"margin": float("nan")}), (1, {"margin": 2.0})]) == {"pair_accuracy": 1.0}
