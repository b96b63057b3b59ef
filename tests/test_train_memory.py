"""The engine's promise of flat memory: windows alive, counted apart from it, and the order behind that."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from generate.canvas.windows import plan_windows
from tests.train_scrolls import Net, gradients, grids, make_problem
from train.engine.window_order import window_order


class Alive:
    """Counts windows whose graphs still hold saved tensors, independently of the engine's own count."""

    def __init__(self, net):
        self.net, self.tokens, self.peak, self.calls = net, weakref.WeakSet(), 0, 0

    def __call__(self, crops, windows):
        token = Token(tuple(windows))

        def pack(tensor):
            self.tokens.add(token)
            return tensor, token

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed[0]):
            predictions = self.net(crops, windows)
        self.calls += torch.is_grad_enabled()
        self.peak = max(self.peak, sum(len(t.windows) for t in self.tokens))
        return predictions


class Token:
    def __init__(self, windows):
        self.windows = windows


@pytest.mark.parametrize("windows", [4, 8, 13, 29])
@pytest.mark.parametrize(
    ("schedule", "most", "forwards"), [("stream", 4, 1), ("two_pass", 1, 1), ("autograd", 99, 1)]
)
def test_the_windows_alive_do_not_grow_with_the_scroll(windows, schedule, most, forwards):
    watched = Alive(Net())
    problem = make_problem(watched, (8, 8 + 2 * (windows - 1)), window=8, stride=2)
    result = gradients(problem, list(watched.net.parameters()), schedule)
    assert watched.peak == min(most, windows) == result.alive_peak
    assert watched.calls == forwards * windows
    assert len(watched.tokens) == 0


@given(shape=grids(), micro_batch=st.integers(1, 4))
def test_streaming_keeps_one_strip_of_windows_alive_and_forgets_none(shape, micro_batch):
    (height, width), window, stride = shape
    windows = plan_windows(height, width, window, stride)
    plan = window_order(windows, micro_batch)
    assert sorted(i for group in plan.groups for i in group) == list(range(len(windows)))
    assert sorted(k for done in plan.release for k in done) == list(range(len(plan.groups)))
    rows = len({w.y0 for w in windows})
    reach = -(-window // stride)
    extra = 1 if (width - window) % stride or (height - window) % stride else 0
    strip = min(rows, len(windows) // rows)
    assert plan.peak <= (reach + extra) * strip + 2 * micro_batch - 1
    if rows == 1 and micro_batch == 1 and not extra:
        assert plan.peak == min(reach, len(windows))


def test_a_tall_grid_streams_along_its_longer_side():
    tall = window_order(plan_windows(64, 16, 8, 4))
    wide = window_order(plan_windows(16, 64, 8, 4))
    assert tall.peak == wide.peak <= 2 * 3 + 1
