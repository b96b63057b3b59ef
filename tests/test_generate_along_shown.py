"""What the page on scrolls along their length shows is accepted, and the miniature paints it."""

from __future__ import annotations

import pytest
from PIL import Image

from drspo.cli import execute
from generate.program.command import main
from generate.program.metadata import read
from tests.test_commands import shown_commands


def _shown(repository) -> list[list[str]]:
    commands = shown_commands((repository / "docs" / "along.md").read_text())
    return [command[3:] for command in commands if command[:3] == ["python", "-m", "generate"]]


def test_the_shown_commands_are_accepted(repository, capsys):
    shown = _shown(repository)
    assert shown
    for arguments in shown:
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--print-config"])
        assert caught.value.code == 0, (arguments, capsys.readouterr().err)


@pytest.mark.slow
def test_the_shown_commands_paint_one_after_the_other(repository, tmp_path, monkeypatch):
    """In one folder, as a reader would: later commands take what earlier ones made."""
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs" / "along.md").read_text()
    lines = [line.strip() for line in page.splitlines() if line.startswith("    - {prompt:")]
    (tmp_path / "along.yaml").write_text("\n".join(lines))
    Image.new("RGB", (256, 64), "skyblue").save(tmp_path / "sketch.png")
    for arguments in _shown(repository):
        steps = ["--steps", "2"] if "--like" not in arguments else []
        assert execute("generate.program.command:main", [*arguments, *steps, "--overwrite"]) == 0, arguments
        out = arguments[arguments.index("--out") + 1]
        if out.endswith(".png") and "later" not in arguments:
            assert read(tmp_path / out).request.height == 128
