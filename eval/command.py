"""`python -m eval`: what the first words ask for; the benchmark itself is in `eval.program`."""

from __future__ import annotations

from drspo.config import load
from drspo.log import setup
from drspo.registry import resolve
from eval.config import EvalConfig

OTHERS = {
    "--coverage": "eval.statistics.coverage:main",
    "--selftest": "eval.selftest:main",
    "score": "eval.score:main",
    "study": "eval.study.page:main",
}
"""What the first word may ask for instead of a benchmark."""


def main(argv: list[str]) -> int:
    """Runs what `argv` asks for: a benchmark, one more process of one, or a program of `OTHERS`."""
    if argv and argv[0] in OTHERS:
        return int(resolve(OTHERS[argv[0]])(argv[1:]))
    joined = argv[:1] == ["worker"]
    arguments = argv[1:] if joined else argv
    config = load(
        EvalConfig, arguments, package="eval", prog="drspo eval", description=EvalConfig.__doc__ or ""
    )
    from eval.program import evaluate  # loads torch and the models' libraries, which help can do without

    setup()
    return evaluate(config, arguments, joined=joined)
