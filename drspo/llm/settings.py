"""Which language model is asked, how, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from drspo.ranges import Count, Natural, NonNegative, Range

OPENAI = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class LLMSettings:
    """The language model and what it may cost."""

    model: str = ""
    """name of the model, as the server knows it; required by everything that asks a language model"""
    base_url: str = OPENAI
    """address of any OpenAI compatible server; one that only a file names gets no key"""
    key_variable: str = KEY_VARIABLE
    """environment variable that holds the key; empty for a server that needs none"""
    temperature: Annotated[float, Range(0, 2, also=(-1,))] = 1.0
    """sampling temperature; -1 leaves it to the server"""
    max_output_tokens: Count = 1000
    """upper bound of one answer, in tokens"""
    output_limit_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """how the server calls that bound"""
    structured: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    """how the answer's shape is asked for; "prompt" only writes it into the message"""
    concurrency: Annotated[int, Range(1, 10_000)] = 16
    """requests under way at once"""
    requests_per_minute: NonNegative = 0
    """0: no limit"""
    tokens_per_minute: NonNegative = 0
    """0: no limit"""
    timeout: Annotated[float, Range(0, 1e6, open_least=True)] = 90.0
    """seconds for one request, start to end"""
    max_retries: Annotated[int, Range(0, 1000)] = 5
    """further requests after an overload or a network failure"""
    max_retry_after: Annotated[float, Range(0, 1e6)] = 120.0
    """longest wait in seconds a server may ask for; beyond it the row is left for the next run"""
    invalid_retries: Annotated[int, Range(0, 1000)] = 1
    """further requests after an answer that breaks the schema"""
    give_up_after: Count = 50
    """stop the run after so many failed requests in a row, over all rows"""
    token_budget: Natural = 0
    """tokens this run may cost in all, earlier starts included; 0: no limit"""
    price_input: NonNegative = 0.0
    """price of a million input tokens, for the report"""
    price_output: NonNegative = 0.0
    """price of a million output tokens, for the report"""


def identity(settings: LLMSettings) -> dict[str, Any]:
    """The settings that shape answers. The rest (speed, patience, budget, prices) may change within a run."""
    names = ("model", "temperature", "max_output_tokens", "structured")
    return {name: getattr(settings, name) for name in names}
