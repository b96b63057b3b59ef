"""How many generators a cluster holds: an actor's share lies on one node, and scorers need theirs too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drspo.errors import UserError
from pipeline.candidates.cluster import _generators_by_gpu
from pipeline.settings import ResourceSettings


def fit(nodes, generator, scorer, scorers=1):
    settings = ResourceSettings(generator_gpus=generator, scorer_gpus=scorer)
    return _generators_by_gpu(settings, nodes, scorers)


@pytest.mark.parametrize(
    ("nodes", "generator", "scorer", "scorers", "most"),
    [
        ([1.0], 0.8, 0.2, 1, 1),
        ([4.0], 0.8, 0.2, 4, 4),
        ([1.0] * 8, 0.8, 0.2, 4, 8),
        ([1.0, 1.0], 1.0, 0.2, 1, 1),
        ([8.0, 0.0], 0.4, 0.1, 8, 18),
        ([2.0, 1.0], 2.0, 1.0, 1, 1),
        ([], 0.0, 0.0, 1, 1),
    ],
)
def test_generators_fill_what_the_scorers_leave(nodes, generator, scorer, scorers, most):
    assert fit(nodes, generator, scorer, scorers) == most


@pytest.mark.parametrize(
    ("nodes", "generator", "scorer", "said"),
    [
        ([1.0] * 8, 2.0, 0.0, "a generator wants 2 GPU, and the largest node of the cluster has 1"),
        ([1.0] * 8, 0.5, 1.5, "a scorer wants 1.5 GPU"),
        ([], 1.0, 0.0, "largest node of the cluster has 0"),
        ([1.0], 1.0, 0.2, "no room for a generator of 1 beside 1 scorers of 0.2"),
    ],
)
def test_what_no_node_can_give_is_refused_though_the_sum_would_do(nodes, generator, scorer, said):
    with pytest.raises(UserError, match=said):
        fit(nodes, generator, scorer)


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.sampled_from([0.2, 0.25, 0.4, 0.5, 0.8, 1.0, 2.0]),
    st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]),
    st.integers(1, 6),
)
def test_both_kinds_always_fit_on_single_nodes(nodes, generator, scorer, scorers):
    try:
        most = fit([float(node) for node in nodes], generator, scorer, scorers)
    except UserError:
        return
    assert most >= 1 and most * generator + scorers * scorer <= sum(nodes) + 1e-6
    assert most <= sum(int(node / generator + 1e-9) for node in nodes)
