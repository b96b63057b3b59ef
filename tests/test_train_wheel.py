"""The wheel trains: both stages on the embedded miniature, away from any checkout."""

import os
import subprocess
import sys

import pytest

from tests.test_packaging_wheel import wheel
from tests.train_pairs import pair_rows, write
from tests.train_runs import records

pytestmark = pytest.mark.xdist_group("train_wheel")

__all__ = ["wheel"]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's files in a folder of their own; a wheel of pure Python needs no more to be installed."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("stage", "size"), [("blueprint", (64, 256)), ("highres", (128, 512))])
def test_a_stage_trains_from_the_wheel(installed, tmp_path, stage, size):
    source = write(tmp_path / "pairs.parquet", pair_rows(2, size))
    environment = os.environ | {"PYTHONPATH": str(installed), "DRSPO_CACHE": str(tmp_path / "cache")}
    start = {"cwd": tmp_path, "env": environment, "text": True, "capture_output": True, "timeout": 580}
    which = subprocess.run([sys.executable, "-c", "import train; print(train.__file__)"], **start)
    assert which.stdout.startswith(str(installed))
    flags = f"--config miniature --stage {stage} --data.source {source} --out lora --max-steps 2 --device cpu"
    flags += " --pairs-per-step 1 --data.validation-pairs 0 --samples.every 0 --lora.rank 4"
    done = subprocess.run([sys.executable, "-m", "train", *flags.split()], **start)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = records(tmp_path / "lora")
    assert first["margin"] == 0.0 and second["margin"] != 0.0
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()
