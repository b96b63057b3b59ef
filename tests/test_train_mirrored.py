"""Mirror images are pairs of their own where the prompt allows it, and are never held out."""

import io
import json

import pytest
import torch
from PIL import Image, ImageOps

from tests.train_pairs import pair_rows, write
from tests.train_runs import train
from train.pairs.listing import hold_out
from train.pairs.mirrored import names_a_side

SMALL = (32, 64)


@pytest.mark.parametrize(
    "prompt",
    [
        "a tower on the left of a lake",
        "a river flowing rightwards",
        "from dawn to dusk over the hills",
        "mountains, then a village",
        'a shop with a sign "TEA"',
        "Chinese calligraphy on silk",
        "左边有一座塔",
    ],
)
def test_a_prompt_with_a_side_an_order_or_lettering_keeps_its_pair_as_it_is(prompt):
    assert names_a_side(prompt)


@pytest.mark.parametrize(
    "prompt", ["a lake at dusk", "bright hills by the sea", "a leftover feast, upright pines"]
)
def test_other_prompts_fit_a_mirror_image(prompt):
    assert not names_a_side(prompt)


def test_a_run_with_flips_trains_on_the_mirror_image_of_every_pair_that_allows_it(
    golden, tmp_path, monkeypatch
):
    monkeypatch.setenv("DRSPO_CACHE", str(tmp_path / "cache"))
    rows = [row | {"prompt": f"a lake {name}"} for row, name in zip(pair_rows(4, SMALL), "abcd", strict=True)]
    rows[0]["prompt"] = "a lake left of a hill"
    other = pair_rows(1, SMALL)[0] | {"pair_id": "by-hand", "prompt": "a lake right of a hill"}
    for side in ("chosen", "rejected"):
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(rows[1][side]["bytes"])) as picture:
            ImageOps.mirror(picture).save(buffer, "PNG")
        other[side] = {"bytes": buffer.getvalue(), "path": None}
    source = write(tmp_path / "a.parquet", [*rows, other])
    out = train(golden, source, tmp_path / "out", max_steps=1, data__flips=True, data__validation_pairs=0)
    listed = {pair["pair_id"]: pair for pair in json.loads((out / "pairs.json").read_text())["train"]}
    assert set(listed) == {
        *(f"pair-{n}" for n in range(4)),
        *(f"pair-{n}-mirrored" for n in (1, 2, 3)),
        "by-hand",
    }
    from safetensors.torch import load_file

    for side in ("chosen", "rejected"):
        ours, by_hand, plain = (
            load_file(next((tmp_path / "cache" / "latents").rglob(f"{listed[name][side]}.safetensors")))[
                "latents"
            ]
            for name in ("pair-1-mirrored", "by-hand", "pair-1")
        )
        assert torch.equal(ours, by_hand) and not torch.equal(ours, plain)


def test_no_mirror_image_is_held_out_nor_trained_on_where_its_prompt_is():
    pairs = [{"prompt": f"p{n}", "row": n, "mirrored": m} for n in range(10) for m in (False, True)]
    training, held_out = hold_out(pairs, 8)
    assert held_out and not any(pair["mirrored"] for pair in held_out)
    assert {pair["prompt"] for pair in training}.isdisjoint(pair["prompt"] for pair in held_out)
    assert sum(pair["mirrored"] for pair in training) == len(training) / 2
