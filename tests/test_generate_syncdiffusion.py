"""SyncDiffusion: parity with the authors' program, its gradient, defaults, loop closure and memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.methods import Literal, sync
from drspo.errors import UserError
from generate.canvas.noise import initial_noise
from generate.catalogue import CATALOGUE
from generate.images.perceptual import load_perceptual
from generate.methods import syncdiffusion
from generate.methods.multidiffusion import Config as WindowConfig
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.one_stage import Run
from generate.methods.syncdiffusion import SyncDiffusion
from generate.models.attention import share_prompts
from generate.models.footprint import activation_bytes, hollow
from generate.models.offload import Offload
from generate.models.specs import MODELS, ModelSpec
from generate.program.command import main
from generate.program.cost import count_evaluations, rehearse
from generate.request import Request
from generate.sampling.gradient_memory import gradient_bytes
from generate.sampling.loop import Moment
from generate.sampling.predict import Predictor
from generate.sampling.synchronise import Pull, Sight, alone, recomputing
from tests import recordings
from tests.small_scrolls import SMALL, distance, family, small_request
from tests.test_generate_parity import Enough, embeddings, request

TOLERANCE = 1e-3
CASES = recordings.cases("syncdiffusion")
FAMILIES = ("tiny-sd", "tiny-sdxl")


def squeeze(golden):
    """LPIPS by the random SqueezeNet of the recorded runs."""
    file = golden / "models" / "lpips-squeeze-rand" / "model.safetensors"
    return {"net": "squeeze", "net_weights": str(file)}


def recorded(golden, settings):
    """The method with the settings of a recorded run."""
    config = syncdiffusion.Config(
        **squeeze(golden), window=settings["window"] * 8, stride=settings["stride"] * 8,
        weight=settings["sync_weight"], decay=settings["sync_decay_rate"], every=settings["sync_freq"],
        until=settings["sync_thres"], edge="uncovered", wrap=settings["loop_closure"],
    )  # fmt: skip
    return SyncDiffusion(family(golden, settings["model"]), config)


def small(golden, name="tiny-sdxl", **changes):
    """The method on a small scroll of four windows."""
    return SyncDiffusion(
        family(golden, name), syncdiffusion.Config(**{**SMALL, **squeeze(golden), **changes})
    )


def looking(method, asked, batch=1):
    """(the run, the way to its windows' previews) of a method, with attention as in a sampling."""
    conditions = method.conditions(method.encode(asked))
    run = Run(
        request=asked, canvas=method.canvas(asked), schedule=method.schedule(asked), conditions=conditions
    )
    predict = Predictor(method.family, conditions, asked.guidance_scale, batch, False)
    return run, Sight(predict, run.schedule, method.family.vae, asked.guidance_scale)


def test_recorded_runs_are_found():
    assert len(CASES) == 2


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_final_latents_equal_the_recorded_run(golden, case):
    settings, tensors = recordings.load(case)
    seen = []
    final = (
        recorded(golden, settings)
        .sample(
            request(settings),
            embeddings=embeddings(tensors),
            latents=tensors["init_latents"],
            callback=lambda step: seen.append(step.latents),
        )
        .latents
    )
    assert distance(final, tensors["final_latents"]) <= TOLERANCE
    for row, index in enumerate(settings["latents_per_step_indices"]):
        assert distance(seen[index], tensors["latents_per_step"][row]) <= TOLERANCE


def test_the_first_steps_distances_and_gradients_are_the_recorded_ones(golden):
    settings, tensors = recordings.load(CASES[0])
    method, distances, gradients = recorded(golden, settings), [], []
    pull = method.parts["gradient"]
    pull.distance.register_forward_hook(lambda _module, _given, found: distances.append(float(found)))

    def kept(*given):
        gradients.append(Pull.forward(pull, *given))
        if len(gradients) == len(settings["views"]) - 1:
            raise Enough
        return gradients[-1]

    pull.forward = kept
    with pytest.raises(Enough):
        method.sample(request(settings), embeddings=embeddings(tensors), latents=tensors["init_latents"])
    others = [row for row in range(len(settings["views"])) if row != settings["anchor_view_idx"]]
    losses = {row: loss for step, row, loss in settings["lpips_losses"] if step == 0}
    assert distances == pytest.approx([losses[row] for row in others], rel=1e-4)
    for ours, row in zip(gradients, others, strict=True):
        theirs = tensors["grads_first_step"][row]
        # Rounding lets a few pixels cross the clamp and the kinks of the ReLUs, so not by the largest.
        assert float((ours[0] - theirs).norm() / theirs.norm()) <= 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_scroll_equals_the_authors_loop_written_out(golden, name):
    method, asked = small(golden, name, weight=20.0, decay=0.9, until=2), small_request(steps=3)
    loop = Literal(method, asked, "ddim")
    loop.first = initial_noise(asked.seed, loop.shape)
    made = method.sample(asked).latents
    assert distance(made, sync(loop)) <= TOLERANCE
    plain = MultiDiffusion(method.family, WindowConfig(**SMALL)).sample(asked).latents
    assert distance(made, plain) > 10 * TOLERANCE


def test_without_weight_or_steps_it_is_multidiffusion(golden):
    asked = small_request()
    plain = MultiDiffusion(family(golden), WindowConfig(**SMALL)).sample(asked).latents
    for changes in ({"until": 0}, {"weight": 0.0}):
        assert distance(small(golden, **changes).sample(asked).latents, plain) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_is_the_slope_of_the_distance_to_the_anchor(golden, name):
    method, asked = small(golden, name), small_request()
    run, sight = looking(method, asked)
    moment, canvas = Moment(1, 2, run.schedule.timesteps[1]), alone(run.canvas, 0)
    noise = initial_noise(5, (2, 4, 16, 16))
    with torch.no_grad(), method.family.denoiser.attending(share_prompts):
        window, anchor = noise[:1], method._preview(noise[1:], moment, canvas, sight)
        gradient = method._pull(window, moment, canvas, sight, anchor)
        way = gradient / gradient.norm()

        def apart(step):
            shown = method._preview(window + step * way, moment, canvas, sight)
            return float(method._pull.distance(shown, anchor))

        assert (apart(0.02) - apart(-0.02)) / 0.04 == pytest.approx(float(gradient.norm()), rel=0.05)


def test_computing_again_what_the_gradient_needs_changes_no_number(golden):
    asked = small_request()
    kept, again = (small(golden, gradient_checkpointing=how).sample(asked) for how in ("off", "on"))
    assert distance(kept.latents, again.latents) <= 1e-5
    model = family(golden)
    assert not model.unet.is_gradient_checkpointing and not model.vae.is_gradient_checkpointing


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_counted_on_paper_is_what_a_gradient_keeps(golden, recompute):
    method, asked = small(golden), small_request()
    run, sight = looking(method, asked)
    canvas, moment = alone(run.canvas, 0), Moment(0, 2, run.schedule.timesteps[0])
    window, anchor = torch.randn(1, 4, 16, 16), torch.rand(1, 3, 128, 128)
    told = run.conditions.of(canvas, range(1), sight.predict.halves, None)
    options = {"recompute": recompute}
    paper = gradient_bytes(method.family, run.schedule, method._pull.distance, canvas, told, **options)
    model = method.family
    with model.denoiser.attending(share_prompts), recomputing([model.unet, model.vae], recompute):
        real = activation_bytes(lambda: method._pull(window, moment, canvas, sight, anchor))
    assert paper == pytest.approx(real, rel=0.1)


def test_what_does_not_fit_is_computed_again(golden, monkeypatch):
    method, asked, seen = small(golden), small_request(steps=1), []
    pull = method.parts["gradient"]
    pull.forward = lambda *given: seen.append(method.family.unet.is_gradient_checkpointing) or given[0]
    for free, expected in ((1 << 40, False), (1 << 20, True)):
        monkeypatch.setattr(syncdiffusion, "free_bytes", lambda _device, free=free: free)
        method.sample(asked)
        assert seen.pop() is expected


def test_checkpointing_needs_less_memory(golden):
    method = small(golden)
    run, sight = looking(method, small_request())
    canvas = alone(run.canvas, 0)
    told = run.conditions.of(canvas, range(1), sight.predict.halves, None)
    given = (method.family, run.schedule, method._pull.distance, canvas, told)
    assert gradient_bytes(*given, recompute=True) < 0.9 * gradient_bytes(*given)


def test_a_hollow_network_shares_nothing_with_its_model(golden):
    unet = family(golden).unet
    calls = []
    handle = unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        bare = hollow(unet)
    finally:
        handle.remove()
    assert all(value.device.type == "meta" for value in bare.parameters())
    assert {name: value.shape for name, value in bare.named_parameters()} == {
        name: value.shape for name, value in unet.named_parameters()
    }
    assert not bare._forward_pre_hooks and not any(value.is_meta for value in unet.parameters())


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ("paper", (20.0, 0.95, 50, 128)),
        ("script", (20.0, 0.95, 10, 128)),
        ("command", (0.1, 0.99, 40, 64)),
    ],
)
def test_each_of_the_authors_three_sets_of_numbers_can_be_chosen(golden, defaults, expected):
    model = family(golden, "tiny-sd")
    asked = small_request(height=512, width=1024, steps=50)
    method = SyncDiffusion(model, syncdiffusion.Config(defaults=defaults, **squeeze(golden)))
    found = method.resolved(asked)
    assert (found.weight, found.decay, found.until, found.stride) == expected
    assert len(method.canvas(asked).windows) == 1 + 512 // expected[3]
    assert SyncDiffusion(model, found).resolved(asked) == found
    mine = replace(method.config, weight=3.0, decay=0.5, until=7, stride=256)
    told = SyncDiffusion(model, mine).resolved(asked)
    assert (told.weight, told.decay, told.until, told.stride) == (3.0, 0.5, 7, 256)


@pytest.mark.parametrize("defaults", ["paper", "script", "command"])
def test_the_listed_costs_are_those_of_windows_and_synchronised_steps(golden, defaults):
    model = replace(family(golden), spec=replace(MODELS["sdxl"], base="none"))
    method = SyncDiffusion(model, syncdiffusion.Config(defaults=defaults, **squeeze(golden)))
    asked = Request(prompt="", height=1024, width=4096, steps=50)
    count, until = len(method.canvas(asked).windows), method.resolved(asked).until
    costs = (2 * count * (50 + until), 2 * (count - 1) * until, count * until)
    shown = [f"{cost:,}" for cost in costs]
    page = (Path(__file__).resolve().parents[1] / "docs" / "methods.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{defaults}`"))
    assert row.endswith(f"| {', '.join(shown)} |")
    entry = CATALOGUE["syncdiffusion"]
    if defaults == "paper":
        assert (
            entry.evaluations == costs[0] and f"{shown[1]} backwards and {shown[2]} previews" in entry.beside
        )
    if defaults == "script":
        assert f"{shown[0]}, {shown[1]} and {shown[2]}" in entry.beside


def test_a_weight_of_the_defaults_grows_with_the_windows_area(golden):
    """The distance is a mean over the picture, so a latent's gradient falls as the window grows."""
    assert small(golden).resolved(small_request()).weight == 20 * (16 / 64) ** 2


def test_loop_closure_is_the_authors_where_the_edge_is_uncovered_and_whole_otherwise(golden):
    asked = small_request(height=512, width=768)
    options = {"window": 512, "stride": 128, "wrap": True}
    theirs = small(golden, "tiny-sd", edge="uncovered", **options).canvas(asked)
    assert [w.x0 for w in theirs.windows] == [0, 16, 32, 48, 64]
    whole = small(golden, "tiny-sd", **options).canvas(asked)
    assert [w.x0 for w in whole.windows] == [0, 16, 32, 48, 64, 80]


def test_a_ring_and_samplers_that_look_back_work(golden):
    asked = small_request(steps=3)
    for changes in ({"wrap": True}, {"scheduler": "dpmpp_2m"}, {"scheduler": "euler"}):
        made = small(golden, **changes, weight=5.0).generate([asked])[0]
        assert made.latents.isfinite().all() and made.image.size == (320, 128)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plan_counts_evaluations_previews_and_gradients(golden, name):
    method = small(golden, name, until=4, window_batch=2)
    model, asked = method.family, small_request(steps=5)
    plan = rehearse(method, model, asked)
    with count_evaluations(model) as counts:
        made = method.generate([asked])[0]
    assert plan.count("unet") == counts["unet"] == made.facts["unet_evaluations"] == 2 * (5 * 4 + 4 * 4)
    assert (plan.count("preview"), plan.count("gradient")) == (4, 4 * 3)


def test_a_gradient_that_is_no_number_ends_the_run_with_its_step(golden):
    method = small(golden)
    method.parts["gradient"].forward = lambda window, *_: window * float("nan")
    with pytest.raises(UserError, match="step 0 the gradient"):
        method.sample(small_request())


def test_lpips_is_the_packages_and_has_a_gradient_where_features_vanish(golden):
    import lpips
    from safetensors.torch import load_file

    given = squeeze(golden)
    ours = load_perceptual("squeeze", torch.device("cpu"), given["net_weights"])
    theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    theirs.load_state_dict(load_file(given["net_weights"]), strict=False)
    one, other = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.allclose(ours(one, other), theirs(one, other).flatten(), rtol=1e-5)
    flat = torch.zeros(1, 4, 8, 8, requires_grad=True)
    from generate.images.perceptual import _unit

    (gradient,) = torch.autograd.grad(_unit(flat).sum(), flat)
    assert gradient.isfinite().all()


def test_a_file_of_torchvisions_backbone_is_taken_and_nothing_random_is_disturbed(tmp_path):
    from torchvision.models import squeezenet1_1

    state = squeezenet1_1(weights=None).state_dict()
    torch.save(state, tmp_path / "squeeze.pth")
    before = torch.random.get_rng_state()
    made = load_perceptual("squeeze", torch.device("cpu"), str(tmp_path / "squeeze.pth"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(made.network.net.slice1[0].weight, state["features.0.weight"])
    with pytest.raises(UserError, match="is no vgg16"):
        load_perceptual("vgg", torch.device("cpu"), str(tmp_path / "squeeze.pth"))
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read"):
        load_perceptual("squeeze", torch.device("cpu"), str(tmp_path / "bad.pth"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--syncdiffusion.net", "vgg"], "vgg16-397923af.pth"),
        (
            ["--syncdiffusion.net", "vgg", "--syncdiffusion.net-weights", "x.pth"],
            "no .pth or .safetensors file",
        ),
        (["--syncdiffusion.net", "vgh"], "Did you mean 'vgg'"),
        (["--syncdiffusion.net-weights", "x.pth"], "has weights of its own"),
        (["--syncdiffusion.weight", "-2"], "weight"),
        (["--syncdiffusion.decay", "1.5"], "decay"),
        (["--syncdiffusion.every", "0"], "every"),
        (["--syncdiffusion.stride", "256"], "larger than the window"),
        (["--syncdiffusion.scheduler", "ddpm"], "DDPM"),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_is_loaded(flags, said, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("generate.program.command.open_session", lambda _: pytest.fail("weights were loaded"))
    with pytest.raises(UserError) as caught:
        main(["a pine", "--method", "syncdiffusion", "--out", str(tmp_path / "x.png"), *flags])
    assert said in str(caught.value)


def test_a_model_of_nobodys_is_compared_by_vgg(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="vgg16"):
        SyncDiffusion.check_weights(syncdiffusion.Config(), None)
    assert ModelSpec(base="x").perceptual == MODELS["sdxl"].perceptual == "vgg"


def test_network_and_autoencoder_are_awake_together():
    class Network:
        device = torch.device("cpu")

        def to(self, device):
            self.device = torch.device(device)

    parts = {role: [Network()] for role in ("text", "denoise", "vae")}
    Offload(torch.device("meta"), parts).wake("denoise", "vae")
    assert {role: held[0].device.type for role, held in parts.items()} == {
        "text": "cpu", "denoise": "meta", "vae": "meta",
    }  # fmt: skip
