"""A vision-language model that runs here, by transformers, asked for the chance that it answers *yes*.

Its next-token distribution is read after the question, so nothing is sampled and the same picture gets the
same number: P(yes) / (P(yes) + P(no)).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import rgb
from eval.backbones.embeddings import choose_device
from eval.backbones.files import Found, find, find_folder
from generate.models.quiet import quiet

NAME = "question"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PATTERNS = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")
"""What of a repository is needed: configurations, tokenizer, chat template, weights; no code."""
ANSWERS = {"yes": ("yes", "Yes", " yes", " Yes"), "no": ("no", "No", " no", " No")}


class LocalModel:
    """A chat model for pictures and text, in safetensors at a Hub id or in a folder; its code never runs."""

    def __init__(self, weights: str, device: str = "auto", batch_size: int = 1) -> None:
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} holds no picture", "question.batch_size", "1 or more")
        self.device, self.batch_size = choose_device(device), batch_size
        self.folder = find_folder(weights, ("config.json",), PATTERNS, NAME)
        self.files = checkpoint(self.folder)
        self.checkpoint, self.revision = weights, self.files[0].revision
        self.hash = hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()[:16]
        self.processor = load_processor(self.folder)
        self.answers = answer_ids(self.processor.tokenizer)
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The network, loaded by the first use."""
        if self._model is None:
            self._model = load_model(self.folder).to(self.device)
        return self._model

    def release(self) -> None:
        """Frees the network."""
        self._model = None

    def chances(self, groups: list[list[Image.Image]], questions: list[str]) -> list[list[float]]:
        """The chance of yes for each picture of each group, which shares a question."""
        return [self._of_one(group, asked) for group, asked in zip(groups, questions, strict=True)]

    def chat(self, question: str) -> str:
        """The chat up to the model's turn."""
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        return str(self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))

    def _of_one(self, images: list[Image.Image], question: str) -> list[float]:
        text, found = self.chat(question), list[float]()
        for at in range(0, len(images), self.batch_size):
            found += self._batch(images[at : at + self.batch_size], text)
        return found

    @torch.no_grad()
    def _batch(self, images: list[Image.Image], text: str) -> list[float]:
        pictures = [[rgb(image)] for image in images]
        inputs = self.processor(text=[text] * len(images), images=pictures, return_tensors="pt")
        logits = self.model(**inputs.to(self.device)).logits[:, -1].float()
        yes, no = (torch.logsumexp(logits[:, ids], dim=-1) for ids in self.answers)
        return [float(value) for value in torch.sigmoid(yes - no).double().cpu()]


def checkpoint(folder: Path) -> list[Found]:
    """The files of a checkpoint: its configuration and every shard; UserError naming a bad one."""
    source = str(folder)
    config = find(source, ("config.json",), NAME)
    first = find(source, WEIGHTS, NAME)
    if first.path.suffix != ".json":
        return [config, first]
    try:
        index = json.loads(first.path.read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
        assert all(Path(name).name == name for name in shards)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"{NAME}: this is no index of weights", str(first.path)) from error
    return [config, *(find(source, (name,), NAME) for name in shards)]


def load_processor(folder: Path) -> Any:
    """The processor of pictures and chats beside the weights; UserError when it is none."""
    from transformers import AutoProcessor

    quiet("transformers")
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        assert processor.tokenizer is not None and (
            processor.chat_template or processor.tokenizer.chat_template
        )
        processor.tokenizer.padding_side = "left"
        return processor
    except Exception as error:  # transformers raises many classes here
        raise UserError(
            f"{NAME}: no processor for pictures and chats",
            str(folder),
            f"the checkpoint needs its processor's and tokenizer's files and a chat template ({error})",
        ) from error


def load_model(folder: Path) -> Any:
    """The model in evaluation mode; UserError when transformers does not know it."""
    from transformers import AutoModelForImageTextToText

    quiet("transformers")
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True
        )
    except Exception as error:
        raise UserError(f"{NAME}: cannot load the model", str(folder), str(error)[:300]) from error
    return model.eval().requires_grad_(False)


def answer_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of the tokens that begin *yes* and *no*; UserError when a tokenizer cannot tell them apart."""
    found = {
        answer: {
            ids[0] for spelled in spellings if (ids := tokenizer.encode(spelled, add_special_tokens=False))
        }
        for answer, spellings in ANSWERS.items()
    }
    yes, no = sorted(found["yes"] - found["no"]), sorted(found["no"] - found["yes"])
    if not yes or not no:
        raise UserError(f"{NAME}: the tokenizer has no tokens of their own for yes and no")
    return yes, no
