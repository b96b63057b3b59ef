"""The libraries that load weights, without their bars and without advice that is meant for developers."""

from __future__ import annotations

import importlib
import logging

BOTH = ("diffusers", "transformers")


def quiet(*libraries: str) -> None:
    """Turns off the loading bars of these libraries (none named: of both), and their logs but for errors.

    Called wherever weights are read. Under --debug all stays as the libraries have it.
    """
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        return
    for library in libraries or BOTH:
        its = importlib.import_module(f"{library}.utils.logging")
        its.set_verbosity_error()
        its.disable_progress_bar()
