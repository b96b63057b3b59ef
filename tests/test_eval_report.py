"""The report: a light page that foreign text cannot break, tables for papers, figures of strips."""

import csv
import io
import json
import shutil
import subprocess
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from drspo.errors import UserError
from drspo.files.run import RunDir
from eval.benchmark.records import Record
from eval.benchmark.suite import cells
from eval.config import EvalConfig, Pictures
from eval.report.comparison import Comparison
from eval.report.figures import dots
from eval.report.latex import csv_tables, latex
from eval.report.page import write_report
from eval.report.strips import figure, main

HOSTILE = '</script><img src=x onerror="document.title=1"> =cmd() & "quotes" \\ $x_1$'


@pytest.fixture
def finished(tmp_path):
    """A benchmark's folder with its pictures and numbers: two rows, six prompts, one of them hostile."""
    (tmp_path / "prompts.txt").write_text(
        "\n".join(["a hill", "a dale", "a vale", "a sea", "a fen", HOSTILE])
    )
    prompts = (str(tmp_path / "prompts.txt"),)
    config = EvalConfig(
        out=str(tmp_path / "run"), methods=("sdxl", "multidiffusion"),
        pictures=Pictures(prompts=prompts, seeds=1),
    )  # fmt: skip
    run = RunDir(config.out)
    run.start("eval", config, "x")
    rng, records = np.random.default_rng(0), []
    for cell in cells(config):
        picture = Image.fromarray(rng.integers(0, 255, (32, 128, 3), dtype=np.uint8))
        out = io.BytesIO()
        picture.save(out, "PNG")
        run.write(cell.name, out.getvalue())
        for scorer, higher in (("quality_1", True), ("surplus", False)):
            records.append(
                Record(
                    method=cell.method,
                    prompt=cell.prompt,
                    seed=0,
                    scorer=scorer,
                    unit="u",
                    view="v",
                    checkpoint="c",
                    checkpoint_hash="h",
                    higher_is_better=higher,
                    value=float(rng.normal() + (cell.method == "sdxl")),
                )  # fmt: skip
            )
    found = Comparison(records, "multidiffusion")
    write_report(config, run, found)
    return tmp_path / "run", config, found


def test_pictures_stay_files_and_the_page_is_light(finished):
    folder, config, _ = finished
    assert (folder / "index.html").stat().st_size < 40_000
    assert "base64" not in (folder / "index.html").read_text() + (folder / "data.js").read_text()
    for cell in cells(config):
        for kind in ("small", "heat"):
            assert (folder / cell.name.replace("images/", f"{kind}/").replace(".png", ".jpg")).is_file()


def test_data_of_ten_methods_on_a_thousand_prompts_stays_under_five_megabytes(finished):
    """By the size of one picture's line here, and eight scorers more."""
    folder, config, _ = finished
    line = len((folder / "data.js").read_bytes()) / len(cells(config))
    assert 10_000 * (line + 8 * 18) < 5 << 20


def test_a_hostile_prompt_is_text_everywhere(finished):
    folder, _, _ = finished
    data = (folder / "data.js").read_text()
    assert "</script" not in data and "<img" not in data
    assert any(p["text"] == HOSTILE for p in json.loads(data[len("window.BENCHMARK = ") : -2])["prompts"])
    assert "document.title" not in (folder / "index.html").read_text()


def test_nothing_is_asked_of_a_network(finished):
    folder, _, _ = finished
    text = (folder / "index.html").read_text() + (folder / "data.js").read_text()
    assert "http://" not in text and "https://" not in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser: chromium")
def test_a_browser_lists_every_prompt_and_runs_nothing_foreign(finished):
    folder, _, _ = finished
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    page = subprocess.run(
        [*command, "--dump-dom", f"file://{folder}/index.html"], capture_output=True, text=True, timeout=120
    ).stdout
    assert page.count("<figure>") == 12 and page.count("<h3>") == 6
    assert "<title>1</title>" not in page and "6 prompts" in page


def test_the_latex_table_has_a_line_for_each_method_and_escapes_names(finished):
    *_, found = finished
    text = latex(found)
    assert r"quality\_1 $\uparrow$" in text and r"surplus $\downarrow$" in text
    assert sum(line.startswith(("sdxl &", "multidiffusion &")) for line in text.splitlines()) == 2
    assert text.count(r"\textbf{") == 2 and r"$\pm$" in text


def test_csv_has_every_number_and_no_formula(finished):
    *_, found = finished
    tables = {name: list(csv.DictReader(io.StringIO(text))) for name, text in csv_tables(found).items()}
    assert len(tables["tables.csv"]) == 4 and len(tables["records.csv"]) == 24
    assert {row["method"] for row in tables["tables.csv"]} == {"sdxl", "multidiffusion"}
    by_value = sorted(float(row["value"]) for row in tables["records.csv"])
    assert by_value == pytest.approx(sorted(asdict(record)["value"] for record in found.records))
    cells_ = [cell for rows in tables.values() for row in rows for cell in row.values() if cell]
    assert not [cell for cell in cells_ if cell[0] in "=@" and len(cell) > 1]


def test_dots_show_every_prompt_of_every_method():
    drawing = dots(["a", "<b>"], np.array([[1.0, 2.0], [3.0, 3.0]]))
    assert drawing.count("<circle") == 4 and "&lt;b&gt;" in drawing
    assert dots([], np.zeros((0, 0))) == ""


def test_strips_of_a_run_stand_under_their_prompts(finished, tmp_path, capsys):
    folder, _, _ = finished
    out = tmp_path / "figure.png"
    assert main([str(folder), "--out", str(out), "--count", "2", "--width", "256", "--methods", "sdxl"]) == 0
    picture = Image.open(out)
    assert picture.width == 256 + 24 and picture.height > 2 * 64
    assert f"figure    {out}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no row 'mad'"):
        main([str(folder), "--out", str(out), "--methods", "mad"])
    with pytest.raises(UserError, match="nothing to show"):
        main([str(folder), "--out", str(out), "--prompts", "volcano"])


def test_strips_of_folders_match_pictures_by_name_and_say_which_is_missing(tmp_path):
    for method in ("ours", "theirs"):
        (tmp_path / "in" / method).mkdir(parents=True)
        Image.new("RGB", (64, 16), "red").save(tmp_path / "in" / method / "one.png")
    Image.new("RGB", (64, 16), "blue").save(tmp_path / "in" / "ours" / "two.png")
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "f.webp"), "--width", "128"]) == 0
    assert (tmp_path / "f.webp").is_file()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere"], "no folder"),
        (["x", "--out", "f.txt"], "no picture's name"),
        (["x", "--count", "0"], "1 to"),
    ],
)
def test_what_cannot_be_a_figure_is_refused(argv, said):
    with pytest.raises(UserError, match=said):
        main(argv)


def test_a_figure_too_large_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.delattr(Image.Image, "resize")
    strip = Image.new("RGB", (16, 64))
    with pytest.raises(UserError, match="a figure of"):
        figure([("p", [("m", strip)])] * 4, width=8000)
