"""What a newcomer does: a fresh clone, and the README's commands as printed, one after another."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from drspo.demo.command import next_command
from drspo.demo.config import DemoConfig

# Words that make each step short; all the others are the README's own.
SHORT = {
    "dataset_builder": "--prompts.limit 2 --candidates.seeds 1 --candidates.steps 2 "
    "--pairs.validation-fraction 0",
    "train": "--max-steps 1 --pairs-per-step 1 --data.validation-pairs 0 --samples.every 0",
    "generate": "--steps 2",
    "eval": "--pictures.limit 2 --pictures.seeds 1 --pictures.steps 1 "
    "--judges.scorers aesthetic border_seam --judges.aside border_seam",
}
OURS = r"(?:source|python -m|drspo|make|pip|python3|ray) "


def printed(page: str) -> list[str]:
    """The commands of the page's code blocks and of its picture's caption, in their order."""
    found = re.findall(rf"^    ({OURS}.+)$|^`({OURS}.+)`$", page, re.MULTILINE)
    return [block or caption for block, caption in found]


@pytest.fixture(scope="module")
def clone(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer") / "drspo"
    subprocess.run(["git", "clone", "--quiet", str(repository), str(folder)], check=True)
    return folder


def test_the_first_screen_is_a_picture_and_two_commands(repository):
    """What fits on a screen: one picture, what it is, `make demo`, `make test`."""
    top = (repository / "README.md").read_text().splitlines()[:20]
    assert sum(line.startswith("![") for line in top) == 1
    shown = [line.split("#")[0].strip() for line in top if line.startswith("    make")]
    assert shown == ["make demo", "make test"]


def test_the_environment_is_entered_before_it_is_needed(repository):
    _, *commands = printed((repository / "README.md").read_text())  # the picture's own stands above
    assert commands.index("source .venv/bin/activate") < min(
        n for n, command in enumerate(commands) if command.startswith(("python -m", "drspo"))
    )


def test_the_demonstrations_next_command_works_without_entering_the_environment(monkeypatch):
    monkeypatch.setattr(sys, "argv", [".venv/bin/drspo", "demo"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert shlex.split(next_command(DemoConfig()))[:2] == [".venv/bin/drspo", "generate"]
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert shlex.split(next_command(DemoConfig()))[:2] == ["drspo", "generate"]


@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_the_readmes_commands_work_when_pasted_one_after_another(clone, tmp_path):
    bin_ = Path(sys.executable).parent  # what `source .venv/bin/activate` puts first
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    done = []
    for command in printed((clone / "README.md").read_text()):
        words = shlex.split(command, comments=True)
        if words[0] in ("make", "source", "pip", "python3", "ray"):
            continue
        short = SHORT.get(words[2], "") if words[0] == "python" else ""
        ended = subprocess.run(
            f"{command} {short}", shell=True, cwd=clone, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-1500:]}{ended.stderr[-3000:]}"
        for foreign in ("Warning", "open an issue", "Loading", "it/s]", "Traceback", "fault of ours"):
            assert foreign not in ended.stderr, f"{command}\n{ended.stderr[-3000:]}"
        assert re.search(r"^next[: ]", ended.stdout, re.MULTILINE), f"{command}\n{ended.stdout[-1500:]}"
        done.append(words[2] if words[0] == "python" else words[1])
    assert done == ["generate", "dataset_builder", "view", "train", "train", "generate", "eval", "publish"]
    assert (clone / "balloon.png").is_file() and (clone / "scroll.png").is_file()
    assert (clone / "runs/published/README.md").is_file()
    assert (clone / "runs/evaluation/index.html").is_file()
