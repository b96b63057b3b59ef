"""Metrics to JSON lines always, to TensorBoard and Weights & Biases where asked."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.leaving import public, public_name
from train.report.metrics import JsonLines
from train.settings import TrackingConfig


class Tracker:
    """Writes the records of one run; on other processes than the first it writes nothing."""

    def __init__(
        self, out: Path, config: TrackingConfig, run_config: Mapping[str, Any], active: bool
    ) -> None:
        self.active = active
        self.metrics = JsonLines(out / "metrics.jsonl")
        self.validation = JsonLines(out / "validation.jsonl")
        self.timings = JsonLines(out / "timings.jsonl")
        self.board = _tensorboard(out) if active and config.tensorboard else None
        self.wandb = (
            _wandb(out, config.wandb_project, run_config) if active and config.wandb_project else None
        )

    def resume_at(self, step: int) -> None:
        """Cuts the files back to `step`, as if nothing after it had happened."""
        if self.active:
            for file in (self.metrics, self.validation, self.timings):
                file.truncate(step)

    def step(self, record: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """One training step."""
        if self.active:
            self.metrics.append(record)
            self.timings.append({"step": record["step"], **timing})
            self._send("train", {**record, **timing})

    def validated(self, record: Mapping[str, Any]) -> None:
        """One measurement on held-out pairs."""
        if self.active:
            self.validation.append(record)
            self._send("validation", record)

    def close(self) -> None:
        """Flushes what is buffered."""
        if self.board:
            self.board.close()
        if self.wandb:
            self.wandb.finish()

    def _send(self, group: str, record: Mapping[str, Any]) -> None:
        step = record["step"]
        numbers = {f"{group}/{k}": v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log(numbers, step=step)


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TensorBoard is not installed", "--tracking.tensorboard", "pip install tensorboard"
        ) from error
    return SummaryWriter(str(out / "tensorboard"))


def _wandb(out: Path, project: str, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("wandb is not installed", "--tracking.wandb-project", "pip install wandb") from error
    # A folder's name is no id: two projects' folders are both called "blueprint".
    Storage(out).create("wandb-id", secrets.token_hex(8).encode())
    # The service also asks the machine for its host, account, command line, paths and printed lines.
    quiet = wandb.Settings(
        host="",
        username="",
        x_disable_meta=True,
        x_disable_machine_info=True,
        disable_git=True,
        save_code=False,
        console="off",
    )
    return wandb.init(
        project=project,
        dir=str(out),
        config=public(dict(config)),
        name=public_name(str(out)),
        id=(out / "wandb-id").read_text(),
        resume="allow",
        settings=quiet,
    )
