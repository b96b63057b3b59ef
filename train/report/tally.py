"""What a run remembers from step to step: plain numbers that every checkpoint keeps."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from train.config import TrainConfig
from train.report.validation import should_stop

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """Bad steps, held-out measurements, and whether the run was stopped early."""

    skipped: int = 0
    bad_in_a_row: int = 0
    best: dict[str, Any] | None = None
    """Step and loss of the best measurement on held-out pairs."""
    drift_shares: list[float] = field(default_factory=list)
    """Winner drift of every measurement."""
    stopped: str = ""
    """Why the run was stopped early; empty: it was not."""

    def count(self, bad: bool, step: int, config: TrainConfig) -> None:
        """Takes in a step; `UserError` when too many in a row were not finite."""
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0
        if not bad:
            return
        self.skipped += 1
        log.warning("step %d skipped: its loss or gradient is not finite", step + 1)
        if self.bad_in_a_row >= config.max_bad_steps:
            raise UserError(
                f"{self.bad_in_a_row} steps in a row were not finite: the model has diverged",
                str(Path(config.out)),
                "lower --optimizer.lr, or train with --precision fp32; the checkpoints are intact",
            )

    def take(self, step: int, record: dict[str, Any]) -> bool:
        """Takes in a measurement; True when the model is the best so far (the untrained one never is)."""
        self.drift_shares.append(record.get("winner_drift_share", 0.0))
        if not step or "loss" not in record or (self.best and record["loss"] >= self.best["loss"]):
            return False
        self.best = {"step": step, "loss": record["loss"]}
        return True

    def consider_stopping(self, step: int, config: TrainConfig) -> None:
        """Notes why to stop, where the winner's held-out error keeps rising."""
        if should_stop(self.drift_shares, config):
            self.stopped = f"winner drift above {config.validation.max_winner_drift} at step {step}"
            log.warning("stopping early: %s", self.stopped)
