"""A method of one's own: what it need not say, what it may set, and how it is used."""

from dataclasses import dataclass

import pytest
from PIL import Image

from drspo import consent
from drspo.cli import execute
from drspo.errors import UserError
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.program.config import plugin_settings
from generate.program.metadata import read
from generate.request import Generated, Generator, build_generator, generator_class, needs_control
from tests.small_scrolls import family, small_request

PLUGIN = "tests.test_generate_plugin:Calm"


@dataclass(frozen=True, kw_only=True)
class CalmConfig(Config):
    calm: float = 0.5
    """how far the first noise is quietened"""


class Calm(MultiDiffusion):
    """MultiDiffusion from quieter noise."""

    name = "calm"
    config_class = CalmConfig

    def sample(self, request, **options):
        calm = self.config.calm
        schedule = self.schedule(request)
        true = schedule.first
        schedule.first = lambda noise: true(noise) * (1 - calm)
        return super().sample(request, schedule=schedule, **options)


class Grey(Generator):
    """The least that a generator can be."""

    name = "grey"

    def generate(self, requests, callback=None):
        return [
            Generated(request=r, image=Image.new("RGB", (r.width, r.height)), seconds=0.0, latents=None)
            for r in requests
        ]


def test_what_a_plugin_does_not_say_has_a_default(golden):
    consent.allow("tests.test_generate_plugin")
    made = build_generator("tests.test_generate_plugin:Grey", family(golden))
    request = small_request()
    made.check([request])
    assert made.resolved(request) == made.config
    assert made.count_steps(request) == request.steps
    assert not needs_control("tests.test_generate_plugin:Grey")
    assert made.stages == ()
    with pytest.raises(UserError, match="at least one step"):
        made.check([small_request(steps=0)])


def test_a_plugin_is_set_by_options_and_its_settings_stand_in_the_record(golden, tmp_path):
    model = ["--model", str(golden / "models" / "tiny-sdxl"), "--height", "128", "--width", "320"]
    model += ["--steps", "1", "--method", PLUGIN, "--device", "cpu"]
    pictures = []
    for calm in (0.0, 0.6):
        out = tmp_path / f"{calm}.png"
        options = ["--options", f"calm.calm={calm}", "calm.window=128", f"{PLUGIN}.stride=64"]
        assert execute("generate.program.command:main", ["a pine", *model, *options, "--out", str(out)]) == 0
        settings = read(out).settings
        assert (settings["calm"], settings["window"], settings["stride"]) == (calm, 128, 64)
        pictures.append(Image.open(out).tobytes())
    assert pictures[0] != pictures[1]
    again = tmp_path / "again.png"
    like = ["--like", str(out), *model[:2], "--allow-plugins", "tests.test_generate_plugin"]
    assert execute("generate.program.command:main", [*like, "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_options_may_be_nested_and_must_be_the_plugins():
    given = ("calm.a.b=1", "calm.a.c=x", "module:Calm.d=[1, 2]")
    assert plugin_settings(given, "module:Calm", "calm") == {"a": {"b": 1, "c": "x"}, "d": [1, 2]}
    for bad in ("calm", "calm.a", "calm.=1", "other.a=1", "calm.a=[", "=1"):
        with pytest.raises(UserError, match="--options"):
            plugin_settings((bad,), "module:Calm", "calm")


def test_a_class_that_is_no_generator_is_refused():
    consent.allow("generate.request:Request")
    with pytest.raises(UserError, match="is not a generator"):
        generator_class("generate.request:Request")


def test_every_built_in_method_derives_from_the_base_and_names_itself():
    from generate import GENERATORS

    for name in GENERATORS:
        assert generator_class(name).name == name
