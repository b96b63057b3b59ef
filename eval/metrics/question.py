"""A question put to a vision-language model about each picture: the probability that it answers *yes*.

The model runs here, by transformers. Its next-token distribution is read after the question, so nothing is
sampled and the same picture gets the same number: P(yes) / (P(yes) + P(no)).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from drspo.errors import UserError
from eval.backbones.embeddings import choose_device
from eval.backbones.files import Found, find, find_folder
from eval.backbones.views import RESIZE_PATH, check_view, shown
from eval.base import check_prompts

MODEL = "HuggingFaceTB/SmolVLM-500M-Instruct"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PATTERNS = ("*.json", "*.txt", "*.jinja", "*.model", "*.safetensors")
"""What of a repository is needed: configurations, tokenizer, chat template, weights; no code."""
ANSWERS = {"yes": ("yes", "Yes", " yes", " Yes"), "no": ("no", "No", " no", " No")}


class Question:
    """The probability of *yes*; `{prompt}` in the question is the picture's prompt.

    `weights` is a Hub id or folder of a chat model for pictures and text with safetensors; code from its
    repository is never run. `view` "whole" hands the picture over as it is and leaves its size to the
    model's own processor.
    """

    name = "question"
    version = "1"
    unit = "probability of yes"
    higher_is_better = True

    def __init__(
        self,
        question: str = "Does this picture show {prompt}? Answer yes or no.",
        weights: str = MODEL,
        view: str = "whole",
        higher: bool = True,
        device: str = "auto",
        batch_size: int = 1,
    ) -> None:
        if not question.strip():
            raise UserError(
                "there is no question", "question.question", "for example: Is there only one sun?"
            )
        if view != "whole":
            check_view(view)
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} holds no picture", "question.batch_size", "1 or more")
        self.question, self.view, self.higher_is_better = question, view, higher
        self.needs_prompt = "{prompt}" in question
        self.device, self.batch_size = choose_device(device), batch_size
        self.folder = find_folder(weights, ("config.json",), PATTERNS, self.name)
        self.files = checkpoint(self.folder)
        self.checkpoint, self.revision = weights, self.files[0].revision
        digest = hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()
        asked = hashlib.sha256(question.encode()).hexdigest()
        self.checkpoint_hash = f"{digest[:16]}+{asked[:8]}+{RESIZE_PATH}"
        self.unit = f"probability of yes to: {question}"
        self.processor = load_processor(self.folder)
        self.answers = answer_ids(self.processor.tokenizer)
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The network, loaded by the first use."""
        if self._model is None:
            self._model = load_model(self.folder).to(self.device)
        return self._model

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One probability per image; windows are averaged."""
        if self.needs_prompt:
            check_prompts(prompts, self.name)
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            squares = [image] if self.view == "whole" else shown(image, self.view, min(image.size))
            text = self._text(prompt)
            parts = [
                self._chances(squares[at : at + self.batch_size], text)
                for at in range(0, len(squares), self.batch_size)
            ]
            found.append(float(np.mean(np.concatenate(parts))))
        return found

    def release(self) -> None:
        """Frees the network."""
        self._model = None

    def _text(self, prompt: str) -> str:
        """The chat up to the model's turn; a prompt stands in it as one quoted line."""
        quoted = json.dumps(" ".join(prompt.split()), ensure_ascii=False)
        asked = self.question.replace("{prompt}", quoted)
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}]
        return str(self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))

    @torch.no_grad()
    def _chances(self, images: list[Image.Image], text: str) -> np.ndarray:
        pictures = [[image.convert("RGB")] for image in images]
        inputs = self.processor(text=[text] * len(images), images=pictures, return_tensors="pt")
        logits = self.model(**inputs.to(self.device)).logits[:, -1].float()
        yes, no = (torch.logsumexp(logits[:, ids], dim=-1) for ids in self.answers)
        return torch.sigmoid(yes - no).double().cpu().numpy()


def checkpoint(folder: Path) -> list[Found]:
    """The files of a checkpoint: its configuration and every shard; UserError naming a bad one."""
    source = str(folder)
    config = find(source, ("config.json",), Question.name)
    first = find(source, WEIGHTS, Question.name)
    if first.path.suffix != ".json":
        return [config, first]
    try:
        index = json.loads(first.path.read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
        assert all(Path(name).name == name for name in shards)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError("question: this is no index of weights", str(first.path)) from error
    return [config, *(find(source, (name,), Question.name) for name in shards)]


def load_processor(folder: Path) -> Any:
    """The processor of pictures and chats beside the weights; UserError when it is none."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        assert processor.tokenizer is not None and (
            processor.chat_template or processor.tokenizer.chat_template
        )
        processor.tokenizer.padding_side = "left"
        return processor
    except Exception as error:  # transformers raises many classes here
        raise UserError(
            "question: no processor for pictures and chats",
            str(folder),
            f"the checkpoint needs its processor's and tokenizer's files and a chat template ({error})",
        ) from error


def load_model(folder: Path) -> Any:
    """The model in evaluation mode; UserError when transformers does not know it."""
    from transformers import AutoModelForImageTextToText

    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True
        )
    except Exception as error:
        raise UserError("question: cannot load the model", str(folder), str(error)[:300]) from error
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
        raise UserError("question: the tokenizer has no tokens of their own for yes and no")
    return yes, no
