"""A plan counts exactly what then runs, by rehearsing the generator itself."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from generate.config import WindowSettings
from generate.images.preview import Recorder
from generate.methods.drspo.blueprint import Blueprint
from generate.methods.drspo.control import Control
from generate.methods.drspo.two_stage import DRSPO, Config
from generate.methods.mad import MAD
from generate.methods.mad import Config as MADConfig
from generate.methods.multidiffusion import Config as MultiDiffusionConfig
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.sdxl import SDXL
from generate.program.cost import Calls, count_evaluations, rehearse
from generate.request import Request
from tests.small_scrolls import controlled_family

REQUEST = Request(prompt="a castle", height=128, width=256, steps=6, guidance_scale=3.0)
WINDOWS = {"window": 128, "stride": 64}
METHODS = {
    "sdxl": lambda family: SDXL(family),
    "multidiffusion": lambda family: MultiDiffusion(family, MultiDiffusionConfig(**WINDOWS)),
    "multidiffusion in parts": lambda family: MultiDiffusion(
        family, MultiDiffusionConfig(**WINDOWS, window_batch=2)
    ),
    "mad": lambda family: MAD(family, MADConfig(**WINDOWS)),
    "drspo": lambda family: DRSPO(
        family,
        Config(
            blueprint=Blueprint(height=64, width=128),
            windows=WindowSettings(**WINDOWS),
            control=Control(scale=1.0, start=0.2, end=0.7),
        ),
    ),
}


@pytest.fixture(scope="module")
def family(golden):
    return controlled_family(golden)


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_counts_exactly_the_evaluations_that_then_run(family, name):
    generator = METHODS[name](family)
    plan = rehearse(generator, family, REQUEST)
    with count_evaluations(family) as counts:
        made = generator.generate([REQUEST])[0]
    assert plan.count("unet") == counts["unet"] == made.facts["unet_evaluations"] > 0
    assert plan.count("controlnet") == counts["controlnet"]


def test_a_rehearsal_runs_few_evaluations_and_leaves_the_networks_as_they_were(family):
    generator = METHODS["multidiffusion in parts"](family)
    before = family.unet.forward
    with count_evaluations(family) as counts:  # hooks also see the calls that are not computed
        real = []
        handle = family.unet.conv_in.register_forward_hook(lambda *_: real.append(1))
        rehearse(generator, family, REQUEST)
        handle.remove()
    assert counts["unet"] == 6 * 3 * 2
    assert len(real) < 6 * 2
    assert family.unet.forward == before
    assert torch.equal(generator.generate([REQUEST])[0].latents, generator.generate([REQUEST])[0].latents)


def test_networks_come_back_after_an_error_in_the_rehearsal(family):
    def fail(_requests, _callback):
        family.unet(torch.zeros(1, 4, 16, 16), 5, encoder_hidden_states=None)

    with pytest.raises(TypeError):
        rehearse(SimpleNamespace(generate=fail, parts={}), family, REQUEST)
    assert "forward" not in vars(family.unet)


def test_seconds_are_interpolated_between_the_calls_that_ran():
    # Ten calls: the first warms up, the merged half takes 2 s a call, the rest 1 s.
    calls = Calls(count=10, samples=10, seconds={0: 50.0, 1: 2.0, 2: 2.0, 4: 2.0, 8: 1.0})
    assert calls.total() == pytest.approx(2.0 * 6 + 1.0 * 4)
    assert Calls(count=1, samples=1, seconds={0: 3.0}).total() == 3.0
    assert [i for i in range(40) if calls.is_real(i)] == [0, 1, 2, 4, 8, 16, 32]


def test_planned_seconds_are_those_that_are_then_spent(family, monkeypatch):
    """By a clock that only the networks move, since a shared machine's says nothing about us."""
    generator = METHODS["multidiffusion"](family)
    clock = [0.0]

    def taking(seconds, call):
        def run(*args, **kwargs):
            clock[0] += seconds
            return call(*args, **kwargs)

        return run

    monkeypatch.setattr("generate.program.cost.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(family.unet, "forward", taking(0.3, family.unet.forward))
    monkeypatch.setattr(family.vae, "decode", taking(2.0, family.vae.decode))
    plan = rehearse(generator, family, replace(REQUEST, steps=12))
    started = clock[0]
    generator.generate([replace(REQUEST, steps=12)])
    spent = clock[0] - started
    assert plan.rehearsal_seconds < 0.8 * spent
    assert plan.seconds == pytest.approx(spent)
    assert plan.peak_bytes > 0


def test_a_plan_with_a_gif_counts_the_decoding_of_every_frame(family, monkeypatch):
    clock = [0.0]

    def decode(vae, latents):
        clock[0] += latents.shape[-1]  # as many seconds as columns
        return torch.zeros(1, 3, 8, 8)

    monkeypatch.setattr("generate.images.preview.decode_latents", decode)
    monkeypatch.setattr("generate.images.preview.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    recorder = Recorder()
    plan = rehearse(METHODS["drspo"](family), family, REQUEST, recorder)
    assert clock[0] == 16 + 32  # one frame of the blueprint, one of the windows
    clock[0] = 0.0
    recorder.animate(None)
    assert clock[0] > 200
    assert clock[0] < plan.seconds < clock[0] + 100
