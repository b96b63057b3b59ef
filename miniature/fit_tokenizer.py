"""A CLIP tokenizer whose vocabulary is the world's words; byte-level, so that any text at all has tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from miniature.captions import captions
from miniature.scene import SUBJECTS, sample_scene

LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY = 1024
# CLIP's own split into words, single digits and runs of punctuation.
_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_COMMON = """
and the of with for from into under over near by at in on to an is are very more most many few two three
big small photo painting view scene image sky light soft warm cold bright dark golden detailed high
quality beautiful long wide horizon distance reflection shadow cloud clouds stars birds grass waves
mountain hill river forest
""".split()


def fit_tokenizer(folder: Path) -> CLIPTokenizer:
    """Learns the merges from captions and writes `vocab.json`, `merges.txt` and the configuration."""
    merges = _learn_merges(_corpus())
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _vocabulary(merges)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(vocabulary, merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _corpus() -> list[str]:
    scenes = [sample_scene(seed, 64, 256) for seed in range(4000)]
    lines = [caption for scene in scenes for caption in captions(scene)]
    return lines + [" ".join([*_COMMON, *SUBJECTS])] * 50


def _learn_merges(lines: list[str]) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Letters that end a word are named in advance: else they are numbered as they are met, in the
    # random order of a hash map, and pairs that are equally frequent merge in another order in every process.
    trainer = trainers.BpeTrainer(
        special_tokens=[letter + "</w>" for letter in letters],
        vocab_size=_VOCABULARY,
        min_frequency=2,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP's order: bytes, bytes that end a word, merges, start, end. The end token has the highest id."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}
