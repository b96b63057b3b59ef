"""A question put to a vision-language model about each picture: the probability that it answers *yes*.

The model runs here (`backbones.chat_local`) or at an OpenAI compatible address (`backbones.chat_served`).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from PIL import Image

from drspo.errors import UserError
from eval.backbones.views import RESIZE_PATH, check_view, shown
from eval.base import Missing, check_prompts

MODEL = "HuggingFaceTB/SmolVLM-500M-Instruct"


class Question:
    """The probability of *yes*; `{prompt}` in the question is the picture's prompt.

    `weights` is a Hub id or folder of a chat model for pictures and text with safetensors; code from its
    repository is never run. With `model` the question goes to the model of that name at `base_url` instead;
    the settings after it are those of the builder's `--llm`. `samples` asks so often and takes the share of
    yes, for a server that gives no probabilities. `view` "whole" hands the picture over as it is and leaves
    its size to the model's own processor.
    """

    name = "question"
    version = "1"

    def __init__(
        self,
        question: str = "Does this picture show {prompt}? Answer yes or no.",
        weights: str = MODEL,
        view: str = "whole",
        higher: bool = True,
        device: str = "auto",
        batch_size: int = 1,
        cache: str = "",
        model: str = "",
        base_url: str = "",
        key_variable: str = "OPENAI_API_KEY",
        samples: int = 0,
        output_limit_field: str = "max_completion_tokens",
        concurrency: int = 8,
        timeout: float = 90.0,
        token_budget: int = 0,
        price_input: float = 0.0,
        price_output: float = 0.0,
    ) -> None:
        if not question.strip():
            raise UserError(
                "there is no question", "question.question", "for example: Is there only one sun?"
            )
        if view != "whole":
            check_view(view)
        self.question, self.view, self.higher_is_better = question, view, higher
        self.needs_prompt = "{prompt}" in question
        self.asked: Any
        if model or base_url:
            from eval.backbones.chat_served import ServedModel, settings

            served = settings(
                model=model,
                base_url=base_url,
                key_variable=key_variable,
                output_limit_field=output_limit_field,
                concurrency=concurrency,
                timeout=timeout,
                token_budget=token_budget,
                price_input=price_input,
                price_output=price_output,
                samples=samples,
            )
            self.asked = ServedModel(served, samples, cache)
        elif samples:
            raise UserError(
                "a model that runs here gives its probability", "question.samples", "leave it out"
            )
        else:
            from eval.backbones.chat_local import LocalModel

            self.asked = LocalModel(weights, device, batch_size)
        self.checkpoint, self.revision = self.asked.checkpoint, self.asked.revision
        wording = hashlib.sha256(question.encode()).hexdigest()
        self.checkpoint_hash = f"{self.asked.hash}+{wording[:8]}+{RESIZE_PATH}"
        what = f"share of yes among {samples} answers" if samples else "probability of yes"
        self.unit = f"{what} to: {question}"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One probability per image; windows are averaged, and one that has no number takes it from all."""
        if self.needs_prompt:
            check_prompts(prompts, self.name)
        groups = [[im] if self.view == "whole" else shown(im, self.view, min(im.size)) for im in images]
        return [_mean(parts) for parts in self.asked.chances(groups, [self.text(one) for one in prompts])]

    def text(self, prompt: str) -> str:
        """What is asked about a picture; a prompt stands in it as one quoted line."""
        quoted = json.dumps(" ".join(prompt.split()), ensure_ascii=False)
        return self.question.replace("{prompt}", quoted)

    def release(self) -> None:
        """Frees the network, or ends the connections."""
        self.asked.release()


def _mean(parts: list[float]) -> float:
    missing = [part for part in parts if isinstance(part, Missing)]
    return missing[0] if missing else float(np.mean(parts))
