"""MAD merges what the paper merges, where it is asked to, and leaves the UNet as it was."""

import copy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from drspo.errors import UserError
from generate.canvas.noise import initial_noise
from generate.canvas.plan import canvas_time_ids
from generate.methods.mad import MAD, Config
from generate.methods.multidiffusion import MultiDiffusion
from generate.models.attention import chosen_layers, installed
from generate.models.canvas_attention import Merge
from generate.sampling.combine import combine, cut
from generate.sampling.guide import guide
from generate.sampling.loop import Moment
from generate.sampling.predict import predicting
from tests.small_scrolls import SMALL, distance, family, small_request

ROUNDING = 5e-5
"""Float32 sums in another order, amplified by guidance; the wrong variants below are beyond 1e-3."""


class LiteralMerge:
    """MAD's attention as the paper words it: queries, keys and values pasted window by window and divided."""

    def __init__(self, canvas, self_attention):
        self.canvas, self.self_attention = canvas, self_attention

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        cross = encoder_hidden_states is not None
        query = attn.to_q(hidden_states)
        if not cross and not self.self_attention:
            return attn.to_out[0](self.heads(attn, query, attn.to_k(hidden_states), attn.to_v(hidden_states)))
        source = encoder_hidden_states if cross else hidden_states
        key, value = attn.to_k(source), attn.to_v(source)
        if not cross:
            key, value = self.paste(key), self.paste(value)
        out = self.heads(attn, self.paste(query), key, value)
        return attn.to_out[0](self.cut(out, hidden_states.shape[1]))

    def heads(self, attn, q, k, v):
        q, k, v = (t.reshape(t.shape[0], t.shape[1], attn.heads, -1).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def boxes(self, tokens):
        h, w = self.canvas.windows[0].shape
        d = round((h * w / tokens) ** 0.5)
        return d, [(n.y0 // d, n.y1 // d, n.x0 // d, n.x1 // d) for n in self.canvas.windows]

    def paste(self, tensor):
        d, boxes = self.boxes(tensor.shape[1])
        groups = tensor.shape[0] // len(boxes)
        total = torch.zeros(groups, self.canvas.height // d, self.canvas.width // d, tensor.shape[2])
        count = torch.zeros(self.canvas.height // d, self.canvas.width // d, 1)
        for row, (y0, y1, x0, x1) in enumerate(boxes):
            views = tensor.reshape(groups, len(boxes), y1 - y0, x1 - x0, -1)[:, row]
            total[:, y0:y1, x0:x1] += views
            count[y0:y1, x0:x1] += 1
        return (total / count).flatten(1, 2)

    def cut(self, canvas, tokens):
        d, boxes = self.boxes(tokens)
        image = canvas.reshape(canvas.shape[0], self.canvas.height // d, self.canvas.width // d, -1)
        views = [image[:, y0:y1, x0:x1].flatten(1, 2) for y0, y1, x0, x1 in boxes]
        return torch.stack(views, dim=1).flatten(0, 1)


def setting(model, **changes):
    """(method, canvas, latents, embeddings) of a small scroll."""
    request = small_request(**changes)
    method = MultiDiffusion(model, Config(**SMALL))
    canvas = method.canvas(request)
    return method, canvas, initial_noise(0, (1, 4, canvas.height, canvas.width)), method.encode(request)


@torch.no_grad()
def canvas_prediction(model, attention=None, *, images=(), rows=None, embeddings=None, **changes):
    """The canvas's guided prediction for one step; `attention` is a function of the canvas."""
    method, canvas, latents, text = setting(model, **changes)
    conditions = method.conditions(embeddings or text, images, rows=rows)
    options = {} if attention is None else {"attention": attention(canvas), "together": True}
    with predicting(model, conditions, guidance_scale=5.0, **options) as predict:
        answer = predict(cut(canvas, latents), Moment(0, 1, torch.tensor(501)), canvas)
    return combine(canvas, guide(answer, 5.0))


def mad_prediction(model, *, layers="all", threshold=1, **options):
    return canvas_prediction(model, lambda canvas: Merge(model.unet, canvas, layers, threshold), **options)


def literal_prediction(model, self_attention, **changes):
    return canvas_prediction(
        model, lambda canvas: lambda name, layer: LiteralMerge(canvas, self_attention), **changes
    )


def window_prediction(model, **options):
    return canvas_prediction(model, **options)


@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-sd"])
@pytest.mark.parametrize("below_threshold", [True, False])
def test_merging_tokens_equals_merging_queries_keys_and_values(golden, name, below_threshold):
    model = family(golden, name)
    ours = mad_prediction(model, threshold=1 if below_threshold else 0)
    assert distance(ours, literal_prediction(model, below_threshold)) < ROUNDING


def test_a_two_dimensional_grid_merges_too(golden):
    model = family(golden)
    ours = mad_prediction(model, height=192, width=192)
    assert distance(ours, literal_prediction(model, True, height=192, width=192)) < ROUNDING


def test_merging_matters_above_and_below_the_threshold(golden):
    model = family(golden)
    plain = window_prediction(model)
    above, below = mad_prediction(model, threshold=0), mad_prediction(model, threshold=1)
    assert distance(above, plain) > 1e-3
    assert distance(below, above) > 1e-3


def test_the_threshold_counts_steps_from_the_noisy_end(golden):
    model = family(golden)

    def run(threshold):
        return MAD(model, Config(**SMALL, threshold=threshold)).sample(small_request(steps=3)).latents

    latents = {threshold: run(threshold) for threshold in (0, 1, 3, 9)}
    assert distance(latents[0], latents[1]) > 1e-3
    assert distance(latents[1], latents[3]) > 1e-3
    assert torch.equal(latents[3], latents[9])


def test_by_default_half_of_the_steps_merge(golden):
    assert MAD(family(golden)).threshold(50) == 25


def test_a_choice_of_layers_differs_from_all_and_from_none(golden):
    model = family(golden)
    everything, none = mad_prediction(model), window_prediction(model)
    some = mad_prediction(model, layers="mid_block, up_blocks.0")
    assert distance(some, everything) > 1e-3
    assert distance(some, none) > 1e-3


def test_chosen_layers_are_those_whose_names_begin_so(golden):
    unet = family(golden).unet
    every = chosen_layers(unet, "all")
    middle = chosen_layers(unet, "mid_block")
    assert middle == {name for name in every if name.startswith("mid_block.")}
    assert 0 < len(middle) < len(every)


def test_a_mistyped_layer_is_refused_with_the_nearest_name(golden):
    method = MAD(family(golden), Config(**SMALL, layers="mid_blok"))
    with pytest.raises(UserError, match="mid_block"):
        method.generate([small_request()])


def test_guidance_halves_apart_give_the_same_prediction(golden):
    model = family(golden)
    whole = mad_prediction(model)
    true, sizes = model.unet.forward, []

    def forward(sample, *args, **kwargs):
        if sample.shape[0] > 4:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(sample.shape[0])
        return true(sample, *args, **kwargs)

    with mock.patch.object(model.unet, "forward", forward):
        halves = mad_prediction(model)
    assert sizes == [4, 4]
    assert distance(halves, whole) < ROUNDING


def test_processors_are_restored_even_when_sampling_fails(golden):
    model = family(golden)
    before = dict(model.unet.attn_processors)

    def fail(step):
        raise KeyError("from a callback")

    with pytest.raises(KeyError):
        MAD(model, Config(**SMALL)).generate([small_request()], callback=fail)
    assert model.unet.attn_processors == before


def test_windows_off_the_coarsest_grid_are_refused_with_the_unit(golden):
    method = MAD(family(golden), Config(window=128, stride=24))
    with pytest.raises(UserError, match="multiples of 32 pixels"):
        method.generate([small_request()])


def test_uncovered_parts_are_refused(golden):
    method = MAD(family(golden), Config(window=128, stride=128, edge="uncovered"))
    with pytest.raises(UserError, match="no window reaches"):
        method.generate([small_request()])


def test_with_a_single_window_mad_is_multidiffusion(golden):
    model = family(golden)
    request = small_request(width=128)
    one = MAD(model, Config(window=128, stride=64)).sample(request).latents
    other = MultiDiffusion(model, Config(window=128, stride=64)).sample(request).latents
    assert distance(one, other) < ROUNDING


class Tokens(torch.nn.Module):
    """Stands for an IP-Adapter's projection: image embeddings [g, 1, d] are one token each."""

    def forward(self, images):
        return [image.unsqueeze(2) for image in images]


@pytest.fixture(scope="module")
def with_image_prompt(golden):
    """tiny-sdxl with a random IP-Adapter in diffusers' own processors, and embeddings for both halves."""
    model = copy.copy(family(golden))
    model.unet = copy.deepcopy(model.unet)
    torch.manual_seed(0)
    for layer in (m for n, m in model.unet.named_modules() if n.endswith("attn2")):
        width = layer.to_q.out_features
        layer.set_processor(
            IPAdapterAttnProcessor2_0(width, model.unet.config.cross_attention_dim, (1,), 0.8)
        )
    model.unet.encoder_hid_proj = Tokens()
    model.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    images = [torch.randn(2, 1, model.unet.config.cross_attention_dim)]
    return model, images


def set_scale(unet, scale):
    for name, layer in unet.named_modules():
        if name.endswith("attn2"):
            layer.processor.scale = [scale]


def diffusers_prediction(model, images, width):
    """Guidance on one window through diffusers' own IP-Adapter processors."""
    _, canvas, latents, text = setting(model, width=width)
    both = torch.cat([text.negative_prompt_embeds, text.prompt_embeds])
    added = {
        "text_embeds": torch.cat([text.negative_pooled, text.pooled]),
        "image_embeds": images,
        "time_ids": canvas_time_ids("window", canvas).repeat(2, 1),
    }
    with torch.no_grad():
        u, c = model.unet(
            torch.cat([latents] * 2), torch.tensor(501), both, added_cond_kwargs=added, return_dict=False
        )[0].chunk(2)
    return u + 5.0 * (c - u)


def test_an_image_prompt_on_one_window_equals_diffusers(with_image_prompt):
    model, images = with_image_prompt
    expected = diffusers_prediction(model, images, width=128)
    ours = mad_prediction(model, width=128, images=images)
    assert distance(ours, expected) < ROUNDING


def test_an_image_prompt_is_attended_from_the_canvas_and_scales(with_image_prompt):
    model, images = with_image_prompt
    full = mad_prediction(model, images=images)
    set_scale(model.unet, 0.0)
    try:
        off = mad_prediction(model, images=images)
    finally:
        set_scale(model.unet, 0.8)
    assert distance(full, off) > 1e-3
    assert distance(full, window_prediction(model, images=images)) > 1e-3


def test_image_prompt_weights_survive_the_replacement(with_image_prompt):
    model, images = with_image_prompt
    names = {name for name, _ in model.unet.named_parameters()}
    mad_prediction(model, images=images)
    assert {name for name, _ in model.unet.named_parameters()} == names
    assert any("to_k_ip" in name for name in names)


def test_installing_leaves_layers_alone_that_are_not_chosen(golden):
    unet = family(golden).unet
    before = dict(unet.attn_processors)
    with installed(unet, lambda name, layer: None):
        assert unet.attn_processors == before
