"""Noise schedulers, and which of them may take one step for all windows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drspo.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from generate.models.family import ModelFamily

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "ddpm": "DDPMScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
}
LINEAR = {
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
}
STOCHASTIC = {"DDPMScheduler", "EulerAncestralDiscreteScheduler"}
DRAWS = "it draws noise at every step, which would be averaged away where windows overlap"


def make_scheduler(family: ModelFamily, name: str, steps: int) -> Any:
    """A fresh scheduler with its timesteps set, built from the checkpoint's own settings.

    "checkpoint" is the class the checkpoint was published with. Settings that the checkpoint leaves out are
    the class's defaults, except `clip_sample`: latents are not bounded by 1, so it is off unless asked for.
    Unknown names raise UserError with the nearest one.
    """
    import diffusers

    config = dict(family.scheduler_config)
    config.setdefault("clip_sample", False)
    scheduler = getattr(diffusers, class_name(name) or config["_class_name"]).from_config(config)
    try:
        scheduler.set_timesteps(steps, device=family.device)
    except (ValueError, IndexError) as error:
        raise UserError(f"The scheduler {name} cannot take {steps} steps: {error}") from error
    return scheduler


def class_name(name: str) -> str:
    """The diffusers class of a scheduler's name, "" for the checkpoint's own; UserError for unknown names."""
    if name == "checkpoint":
        return ""
    if name not in SCHEDULERS:
        raise UserError(f"Unknown scheduler {name!r}.", hint=did_you_mean(name, [*SCHEDULERS, "checkpoint"]))
    return SCHEDULERS[name]


def require_linear(scheduler: Any) -> None:
    """Raises UserError, with the reason, unless one step on the canvas equals the average of window steps.

    Every window reads the same canvas x_t, and a deterministic scheduler without clipping gives x_{t-1} as a
    linear function of x_t and the history of predictions, so averaging the predictions and stepping once is
    averaging the windows' x_{t-1} (MultiDiffusion, eq. 5). Noise, clipping and thresholding break this.
    """
    name, config = type(scheduler).__name__, scheduler.config
    reason = ""
    if name in STOCHASTIC or "sde" in str(config.get("algorithm_type", "")):
        reason = DRAWS
    elif config.get("thresholding", False):
        reason = "its dynamic thresholding is not linear in the prediction"
    elif config.get("clip_sample", False):
        reason = "it clips the predicted latents, which is not linear in the prediction"
    elif name not in LINEAR:
        reason = "it is not known to be linear in the prediction"
    if reason:
        raise _not_linear(name, reason)


def check_linear(name: str) -> None:
    """UserError for names that no checkpoint's settings can make linear: unknown ones and stochastic ones."""
    if class_name(name) in STOCHASTIC:
        raise _not_linear(class_name(name), DRAWS)


def _not_linear(name: str, reason: str) -> UserError:
    return UserError(
        f"{name} cannot take one step for all windows: {reason}.",
        hint="Use ddim, euler, pndm, dpmpp_2m or unipc.",
    )
