"""The samplers' benchmark runs without weights, through the code that times SDXL's real size."""

import re

import torch

from benchmarks.generate import loop_of_windows, main
from benchmarks.random_sdxl import random_embeddings, random_family
from generate.methods.multidiffusion import MultiDiffusion
from generate.request import Request
from tests.small_scrolls import distance


def test_it_prints_each_ratio_once(capsys):
    threads = torch.get_num_threads()
    try:
        main("--random-sdxl small --device cpu --threads 1 --steps 1 --repeats 1 --no-memory".split())
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    ratios = re.findall(r"^(\([abc]\)).* (\d+\.\d+)", shown, flags=re.MULTILINE)
    assert [name for name, _ in ratios] == ["(a)", "(c)", "(b)", "(b)"]
    assert all(float(value) > 0 for _, value in ratios)


def test_the_loop_that_it_compares_with_computes_the_same_scroll():
    family = random_family("small", "cpu", "float32")
    request = Request(prompt="", height=128, width=256, steps=3, guidance_scale=3.0)
    text = random_embeddings(family)
    ours = MultiDiffusion(family).sample(request, embeddings=text).latents
    assert distance(loop_of_windows(family, request, text), ours) < 1e-4
