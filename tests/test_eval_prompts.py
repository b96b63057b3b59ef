"""The prompts that ship: as many as they say, outdoors, no two alike."""

import pytest

from drspo.errors import UserError
from eval.benchmark.prompt_lists import PROMPTS, read_prompts
from pipeline.ideas.dedup import jaccard, near_duplicates, shingles


@pytest.mark.parametrize(("name", "count"), [("scenery", 220), ("figures", 16), ("miniature-48", 48)])
def test_each_list_has_its_number_of_prompts(name, count):
    assert len(read_prompts(name)) == count


def test_no_two_scenes_are_near_duplicates():
    prompts = [prompt for name in ("scenery", "figures", "outdoor") for prompt in read_prompts(name)]
    assert near_duplicates(prompts, 0.5) == {}
    kept = [shingles(prompt) for prompt in prompts]
    closest = max(jaccard(a, b) for i, a in enumerate(kept) for b in kept[:i])
    assert closest < 0.4


def test_scenes_vary_in_length_and_hardly_begin_alike():
    prompts = read_prompts("scenery")
    words = [len(prompt.split()) for prompt in prompts]
    assert min(words) <= 8 and max(words) >= 18
    openings = [" ".join(prompt.split()[:3]) for prompt in prompts]
    assert max(openings.count(opening) for opening in openings) <= 6


def test_the_miniatures_prompts_name_each_subject_equally_often():
    from miniature.captions import SUBJECT_NOUNS

    prompts = read_prompts("miniature-48")
    counts = {
        subject: sum(any(noun in prompt for noun in nouns) for prompt in prompts)
        for subject, nouns in SUBJECT_NOUNS.items()
    }
    assert set(counts.values()) == {8}


def test_every_list_is_read_without_its_comments():
    for path in PROMPTS.glob("*.txt"):
        assert not any(prompt.startswith("#") for prompt in read_prompts(path.stem))


def test_what_a_run_held_out_is_a_source_too(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "run" / "export" / "data"
    folder.mkdir(parents=True)
    for split, prompts in (("train", ["a"]), ("validation", ["b", "c", "b"])):
        pq.write_table(pa.table({"prompt": prompts}), folder / f"{split}-00000-of-00001.parquet")
    assert read_prompts(str(tmp_path / "run")) == ["b", "c"]
    (folder / "validation-00001-of-00001.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(UserError, match="not a whole Parquet file"):
        read_prompts(str(tmp_path / "run"))
