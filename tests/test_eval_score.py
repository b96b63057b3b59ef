"""Pictures that were made elsewhere: a folder and prompts give numbers, methods a comparison."""

import json

import numpy as np
import pytest
from PIL import Image

from drspo.errors import UserError
from eval.command import main
from eval.score import assign, pictures, prompts_of

SHOWN: list[int] = []


class Grey:
    name, unit, higher_is_better, view, checkpoint, checkpoint_hash = (
        "grey",
        "grey",
        True,
        "whole",
        "none",
        "1",
    )
    needs_prompt = True

    def score(self, images, prompts):
        SHOWN.append(len(images))
        return [float(np.asarray(image).mean()) for image in images]


def paint(folder, greys):
    folder.mkdir(parents=True, exist_ok=True)
    for number, grey in enumerate(greys):
        Image.new("RGB", (64, 16), (grey,) * 3).save(folder / f"{number:02}.png")


@pytest.fixture
def folder(tmp_path):
    SHOWN.clear()
    paint(tmp_path / "pictures" / "base", range(10, 16))
    paint(tmp_path / "pictures" / "ours", range(30, 36))
    (tmp_path / "prompts.csv").write_text(
        "file,prompt\n" + "".join(f"{n:02}.png,prompt {n}\n" for n in range(6))
    )
    return tmp_path


def score(folder, *more):
    return main(
        ["score", str(folder / "pictures"), "--prompts", str(folder / "prompts.csv"), "--out",
         str(folder / "run"), "--judges.scorers", f"grey={__name__}:Grey", *more]
    )  # fmt: skip


def test_a_folder_per_method_is_scored_once_and_compared(folder, capsys):
    assert score(folder) == 0
    assert "| ours | 32.5000" in capsys.readouterr().out and sum(SHOWN) == 12
    rows = json.loads((folder / "run" / "tables.json").read_text())["rows"]
    ours = next(row for row in rows if row["method"] == "ours")
    assert ours["difference"]["mean"] == pytest.approx(20) and ours["verdict"] == "+ clearly better"
    assert score(folder) == 0 and sum(SHOWN) == 12


def test_a_picture_that_changed_is_scored_anew_and_no_other(folder):
    score(folder)
    paint(folder / "pictures" / "ours", [200])
    score(folder)
    assert sum(SHOWN) == 13
    lines = [json.loads(line) for line in (folder / "run" / "records.jsonl").read_text().splitlines()]
    assert next(r["value"] for r in lines if r["method"] == "ours" and r["prompt"] == "prompt 0") == 200


def test_a_file_that_is_no_picture_has_a_row_with_its_reason(folder, capsys):
    (folder / "pictures" / "ours" / "03.png").write_bytes(b"no picture at all")
    assert score(folder) == 0
    out = capsys.readouterr().out
    assert "compared on 5 of 6" in out and "ours: 1 pictures without a number" in out


def test_the_shipped_stand_ins_score_a_folder_without_a_download(folder, capsys):
    assert main(
        ["score", str(folder / "pictures" / "ours"), "--model", "miniature", "--prompts",
         str(folder / "prompts.csv"), "--out", str(folder / "run"), "--judges.scorers", "aesthetic", "clip"]
    ) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "### aesthetic" in out and "miniature+miniature" in out and "### clip" in out


def test_prompts_come_as_csv_jsonl_or_lines_in_the_order_of_names(folder):
    files = pictures(str(folder / "pictures"))
    wanted = {f"{n:02}.png": f"prompt {n}" for n in range(6)}
    rows = [json.dumps({"file": name, "prompt": prompt}) for name, prompt in wanted.items()]
    (folder / "p.jsonl").write_text("\n".join(rows))
    (folder / "p.txt").write_text("\n".join(wanted.values()))
    for name in ("prompts.csv", "p.jsonl", "p.txt"):
        assert prompts_of(str(folder / name), files, ["clip"]) == wanted


def test_pictures_of_one_prompt_are_its_seeds():
    from pathlib import Path

    files = {"a": {"0.png": Path("a/0.png"), "1.png": Path("a/1.png")}, "b": {"1.png": Path("b/1.png")}}
    cells = assign(files, {"0.png": "same", "1.png": "same"})
    assert {(cell.method, cell.seed): str(path) for cell, path in cells.items()} == {
        ("a", 0): "a/0.png", ("a", 1): "a/1.png", ("b", 1): "b/1.png"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "ending", "said"),
    [
        ("only one", "txt", "1 prompts for 6 pictures"),
        ("name,words\n1,2\n", "csv", "cannot read the prompts"),
        ("{", "jsonl", "cannot read the prompts"),
        ("[]", "jsonl", "cannot read the prompts"),
        ("file,prompt\n00.png,\n", "csv", "00.png has no prompt"),
        ("file,prompt\n00.png,x\n", "csv", "01.png has no prompt"),
    ],
)
def test_prompts_that_do_not_fit_the_pictures_are_refused(folder, text, ending, said):
    (folder / f"bad.{ending}").write_text(text)
    with pytest.raises(UserError, match=said):
        prompts_of(str(folder / f"bad.{ending}"), pictures(str(folder / "pictures")), ["clip"])


def test_what_is_missing_is_said_before_anything_is_scored(folder):
    with pytest.raises(UserError, match="no folder"):
        main(["score", str(folder / "nowhere"), "--out", str(folder / "run")])
    with pytest.raises(UserError, match="where shall the numbers go"):
        main(["score", str(folder / "pictures")])
    with pytest.raises(UserError, match="clip compare pictures with their prompts"):
        main(["score", str(folder / "pictures"), "--out", str(folder / "run"), "--model", "miniature",
              "--judges.scorers", "clip"])  # fmt: skip
    with pytest.raises(UserError, match="no method here"):
        score(folder, "--baseline", "mad")
    paint(folder / "pictures", [1])
    with pytest.raises(UserError, match="pictures and folders of pictures"):
        score(folder)
    assert not SHOWN
