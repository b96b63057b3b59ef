"""The table of costs: what is counted, and that the page shows what the script prints."""

from __future__ import annotations

import pytest

from benchmarks import costs

pytestmark = pytest.mark.xdist_group("benchmark_costs")


def test_times_are_in_a_unit_that_fits():
    assert [costs.said(s) for s in (9.14, 89, 126, 5400 * 2, 86400 * 17.2)] == [
        "9.1 s", "89 s", "2.1 min", "3 h", "17 days",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_shows_what_is_counted(repository):
    assert costs.table() in (repository / "docs" / "models.md").read_text()


@pytest.mark.slow
def test_the_unets_count_is_the_one_that_is_published_for_it():
    """About 3 x 10^12 multiply-adds an evaluation at 1024x1024."""
    direct, windows = (
        costs.works()[n] for n in ("a scroll by `direct`", "a scroll by `multidiffusion` or `mad`")
    )
    assert 5.5 < windows / 1300 < 7.5
    assert direct / 100 > 4 * windows / 1300  # four squares of pixels, and attention grows faster


@pytest.mark.slow
def test_text_encoders_and_scorers_are_too_small_a_part_of_a_unit_to_be_batched_across_units(repository):
    page = (repository / "docs" / "cluster.md").read_text()
    found = costs.beside()
    assert all(tera < costs.unit() / 10_000 for tera in found.values())
    assert all(f"{tera:.2g}" in page for tera in found.values()) and f"{costs.unit():,.0f}" in page
