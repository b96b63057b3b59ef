"""How many generators a cluster holds: an actor's share lies on one node, and scorers need theirs too."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drspo.errors import UserError
from pipeline.candidates import shares
from pipeline.candidates.shares import Capacity, Pool, _generators_by_gpu, _slots, _takes
from pipeline.checks import check_pools
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


def mixed(labels, generator, scorer, nodes, **settings):
    settings = ResourceSettings(generator_gpus=generator, scorer_gpus=scorer, **settings)
    return _generators_by_gpu(
        settings, nodes, settings.scorer_actors, _takes(settings, labels, [8.0] * len(nodes))
    )


BIG, SMALL = {"gpu": "big", "zone": "a"}, {"gpu": "small"}


def test_labels_keep_each_kind_to_its_nodes():
    apart = {"generator_label": "gpu=big", "scorer_label": "gpu=small"}
    assert mixed([BIG, SMALL, BIG], 1.0, 1.0, [4.0, 1.0, 2.0], **apart) == 6
    # Where scorers may come beside the generators, these give way; where they may not, none does.
    assert mixed([BIG, SMALL], 1.0, 1.0, [2.0, 2.0], generator_label="gpu=big", scorer_actors=3) == 1
    with pytest.raises(UserError, match="a generator wants 2 GPU, and the largest node of the cluster has 1"):
        mixed([BIG, SMALL], 2.0, 1.0, [1.0, 8.0], **apart)
    with pytest.raises(UserError, match="no room for a generator of 1 beside 2 scorers of 1"):
        mixed([BIG, SMALL], 1.0, 1.0, [4.0, 1.0], scorer_actors=2, **apart)
    # Scorers without a GPU may be on nodes without one.
    assert mixed([BIG, SMALL], 1.0, 0.0, [2.0, 0.0], **apart) == 2


def test_a_label_of_no_node_is_refused_by_name():
    with pytest.raises(UserError, match="no node of the cluster has the label gpu=huge"):
        mixed([BIG, SMALL], 1.0, 0.0, [1.0, 1.0], generator_label="gpu=huge")


@pytest.mark.parametrize("text", ["gpu", "gpu=", "=big", "gpu=big, zone=a", "gpu='big'"])
def test_what_is_no_label_is_refused(text):
    with pytest.raises(UserError, match="is no label of nodes"):
        check_pools(ResourceSettings(scorer_label=text))


def test_a_pool_that_may_not_be_as_large_as_it_is_asked_to_be_is_refused():
    check_pools(ResourceSettings(generator_actors=2, max_generators=2, scorer_actors=3, max_scorers=4))
    with pytest.raises(UserError, match="3 scorer actors are more than the 2 that there may be at most"):
        check_pools(ResourceSettings(scorer_actors=3, max_scorers=2))


@pytest.mark.parametrize("kind", ["generator", "scorer"])
@pytest.mark.parametrize(
    ("size", "wanted", "most", "units", "bounds"),
    [
        (2, 0, 0, 9, (2, 2)),
        (2, 2, 2, 9, (2, 2)),
        (2, 0, 8, 9, (1, 8)),
        (2, 2, 8, 9, (2, 8)),
        (3, 5, 8, 9, (3, 8)),
        (8, 0, 3, 9, (3, 3)),
        (2, 0, 8, 4, (1, 4)),
    ],
)
def test_a_pool_keeps_its_size_unless_more_are_allowed(kind, size, wanted, most, units, bounds):
    asked = {"_actors": wanted, "_gpus": 0.5, "_label": "gpu=big"}
    settings = ResourceSettings(
        **{f"{kind}{name}": value for name, value in asked.items()}, **{f"max_{kind}s": most}
    )
    pool = Pool.of(settings, kind, size, units)
    assert (pool.size, pool.least, pool.most) == (min(size, most or size), *bounds)
    assert (pool.gpus, pool.label) == (0.5, {"gpu": "big"})


@pytest.fixture
def cluster(monkeypatch):
    """Sets the nodes that Ray tells of: GPUs by name, those that drain, those that are lost."""

    def put(gpus, draining=(), lost=(), cpus=2.0):
        nodes = [
            {
                "NodeID": name,
                "Alive": name not in lost,
                "Resources": {"CPU": cpus, "GPU": float(count)},
                "Labels": {"node": name},
            }
            for name, count in gpus.items()
        ]
        monkeypatch.setattr(shares.ray, "nodes", lambda: nodes)
        monkeypatch.setattr(shares.state, "get_draining_nodes", lambda: dict.fromkeys(draining, 0))

    return put


def test_a_node_that_drains_holds_no_new_actor(cluster, caplog):
    wanted = ResourceSettings(generator_gpus=1.0, actor_cpus=0.1)
    cluster({"a": 1, "b": 2, "c": 4})
    assert Capacity.of_cluster(wanted).generators.size == 7 and not caplog.messages
    cluster({"a": 1, "b": 2, "c": 4}, draining=["b"], lost=["c"])
    assert Capacity.of_cluster(wanted).generators.size == 1
    assert caplog.messages == ["1 of 2 nodes are to be taken away: no actor begins there"]
    # Neither its labels, nor its GPUs, nor its CPUs are there for what is to begin.
    with pytest.raises(UserError, match="no node of the cluster has the label node=b"):
        Capacity.of_cluster(replace(wanted, generator_label="node=b"))
    with pytest.raises(UserError, match="wants 2 GPU, and the largest node of the cluster has 1"):
        Capacity.of_cluster(replace(wanted, generator_gpus=2.0))
    with pytest.raises(UserError, match="2 logical CPUs are too few"):
        Capacity.of_cluster(replace(wanted, actor_cpus=0.6))


def test_an_actors_cpus_lie_on_one_node_too(cluster):
    wanted = ResourceSettings(actor_cpus=0.75, generator_actors=99)
    cluster(dict.fromkeys("abcdefgh", 0), cpus=1.0)
    # Of eight nodes seven hold one actor each, whatever the rests come to, and one feeds them.
    assert Capacity.of_cluster(wanted).generators.size == 6
    cluster(dict.fromkeys("abcd", 0), cpus=2.0)
    assert Capacity.of_cluster(wanted).generators.size == 6
    with pytest.raises(
        UserError, match="a generator wants 3 logical CPUs, and the largest node for it has 2"
    ):
        Capacity.of_cluster(replace(wanted, actor_cpus=3.0))
    # A node's GPUs hold no more generators than its CPUs do, and leave a scorer room for its own.
    cluster({"a": 8, "b": 0}, cpus=2.0)
    with_gpus = replace(wanted, generator_actors=0, generator_gpus=1.0, actor_cpus=0.5)
    assert Capacity.of_cluster(with_gpus).generators.size == 4
    assert Capacity.of_cluster(replace(with_gpus, scorer_gpus=0.2)).generators.size == 3
    with pytest.raises(UserError, match="4 logical CPUs are too few"):
        Capacity.of_cluster(replace(wanted, actor_cpus=0.5, scorer_actors=5, scorer_label="node=a"))


@given(
    cpus=st.lists(st.integers(1, 16), min_size=1, max_size=6),
    share=st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0, 1.5]),
    kept=st.sampled_from([0.0, 1.0, 1.3]),
)
def test_the_actors_fit_and_one_node_keeps_what_it_is_to_keep(cpus, share, kept):
    slots = _slots(cpus, share, kept)
    by_keeper = [
        sum(int((count - kept * (other == at)) / share + 1e-9) for other, count in enumerate(cpus))
        for at in range(len(cpus))
        if cpus[at] >= kept
    ]
    assert 0 <= slots <= sum(int(count / share + 1e-9) for count in cpus)
    assert slots == max(by_keeper, default=slots)
    if not by_keeper:
        assert slots * share <= sum(cpus) - kept + 1e-6 or not slots
