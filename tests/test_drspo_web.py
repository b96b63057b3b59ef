"""The viewer that every page carries: whole, self-contained, and obedient in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from PIL import Image

from drspo.web import viewer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_the_viewer_is_one_style_and_one_script_and_asks_for_nothing():
    text = viewer()
    assert re.findall(r"</?(?:style|script)>", text) == ["<style>", "</style>", "<script>", "</script>"]
    assert not re.search(r"https?:|//cdn|@import|\burl\(|\bfetch\(|XMLHttpRequest|\beval\(|Storage", text)


# A browser that shows no window draws no frame, so that the drawing is asked of a timer.
FRAMES = "<script>window.requestAnimationFrame = draw => setTimeout(draw, 1);</script>"
ACTS = """
const said = [], wait = () => new Promise(done => setTimeout(done, 60));
const canvas = document.querySelector(".scroll-viewer canvas"), dialog = document.querySelector("dialog");
const press = key => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const zoom = () => document.querySelector("dialog output").value;
addEventListener("load", async () => {
  document.querySelectorAll("a")[1].click();
  await wait();
  const whole = zoom();
  said.push("open " + dialog.open, document.querySelector(".said").textContent);
  press("1"); await wait(); said.push(zoom());
  press("+"); await wait(); said.push(zoom());
  press("0"); await wait(); said.push("whole " + (zoom() === whole));
  press("PageDown"); await wait(); said.push(document.querySelector(".said").textContent);
  press("s"); await wait(); said.push(document.querySelector(".said").textContent);
  document.querySelector("[data-do=close]").click(); said.push("open " + dialog.open);
  document.title = said.join("; ");
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_opens_zooms_leafs_stacks_and_closes_from_files(tmp_path):
    for name, size in (("one", (4000, 300)), ("two", (16384, 1024)), ("alone", (64, 64))):
        Image.new("RGB", size, "teal").save(tmp_path / f"{name}.png")
    links = "".join(
        f'<a data-scroll="{group}" href="{name}.png" data-about="a lake">'
        f'<img src="{name}.png" alt="{name}" width="9"></a>'
        for name, group in (("alone", ""), ("one", "p"), ("two", "p"))
    )
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body>{FRAMES}{links}{viewer()}<script>{ACTS}</script></body>")
    asked = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    budget = ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run([*asked, *budget], capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stdout[-500:]
    assert title[1].split("; ") == [
        "open true",
        "1 of 2: one \u2014 a lake",
        "100 %",
        "140 %",
        "whole true",
        "2 of 2: two \u2014 a lake",
        "2 scrolls together \u2014 a lake",
        "open false",
    ]
