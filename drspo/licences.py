"""Licences: the Hub's identifiers, and which of them a base model hands on to what is made from it."""

from __future__ import annotations

from drspo.errors import UserError, did_you_mean

# The identifiers that data, images and weights usually carry.
KNOWN = (
    "apache-2.0 mit cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 cc-by-nd-4.0 "
    "openrail openrail++ creativeml-openrail-m bigscience-openrail-m odc-by odbl pddl bsd-3-clause gpl-3.0 "
    "cdla-permissive-2.0 cdla-sharing-1.0 unlicense other"
).split()

OF_BASE = {"stabilityai/stable-diffusion-xl-base-1.0": "openrail++"}
"""Licences of base models whose derivatives must carry them."""


def check_licence(licence: str) -> str:
    """The licence's identifier as the Hub knows it. Raises UserError for none and for an unknown one."""
    if not licence:
        raise UserError(
            "a publication needs a licence", "--license", f"For example cc-by-4.0. {did_you_mean('', KNOWN)}"
        )
    if licence not in KNOWN:
        raise UserError(f"the Hub knows no licence {licence!r}", "--license", did_you_mean(licence, KNOWN))
    return licence
