"""Logging and progress: rich bars on a terminal, one plain line per 30 seconds otherwise."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drspo.errors import UserError

PLAIN_INTERVAL = 30.0
logger = logging.getLogger(__name__)
# Libraries that log on the root logger, where no level of their own can be set.
_NOISY_AT_ROOT = ("open_clip",)
# What is said for developers: to a run's log.txt, not to the screen, unless it is an error.
_FOR_DEVELOPERS = ("py.warnings", "accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "torch")
_NOISY = (
    "httpx",
    "httpcore",
    "urllib3",
    "filelock",
    "fsspec",
    "botocore",
    "aiobotocore",
    "s3fs",
    "PIL",
    "asyncio",
)


def setup(debug: bool = False, file: Path | None = None) -> None:
    """Configures logging for a program: messages to stderr, and to `file` as well when it is given.

    Called from a program's main, never on import. A second call adds its file and keeps one handler.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    if not any(getattr(handler, "of_drspo", False) for handler in root.handlers):
        root.addHandler(_for_people(_marked(_console_handler(), debug), debug))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        root.addHandler(_marked(handler, debug))
    if not debug:
        logging.captureWarnings(True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.WARNING)


class _LogFile(logging.FileHandler):
    """Appends to a file, never through a link: a run folder of a stranger could aim one at any file."""

    def _open(self) -> Any:
        from drspo.files.private import open_unlinked

        try:
            return open_unlinked(Path(self.baseFilename), "a", 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UserError("the log file is a link, which is not followed", self.baseFilename) from error


def _marked(handler: logging.Handler, debug: bool) -> logging.Handler:
    handler.of_drspo = True  # type: ignore[attr-defined]
    if not debug:
        handler.addFilter(_is_no_noise)
    return handler


def _for_people(handler: logging.Handler, debug: bool) -> logging.Handler:
    if not debug:
        handler.addFilter(_is_for_people)
    return handler


def _is_for_people(record: logging.LogRecord) -> bool:
    """False for advice of libraries: a screen holds our words, and a run's log.txt all of them."""
    names = (record.name, record.name.partition(".")[0])
    return record.levelno >= logging.ERROR or not any(name in _FOR_DEVELOPERS for name in names)


def _is_no_noise(record: logging.LogRecord) -> bool:
    """False for what a library says on the root logger below a warning."""
    if record.name != "root" or record.levelno >= logging.WARNING:
        return True
    return Path(record.pathname).parent.name not in _NOISY_AT_ROOT


def _console_handler() -> logging.Handler:
    if sys.stderr.isatty():
        # The handler shares its console with the bars, which would else be torn by each message.
        from rich.logging import RichHandler

        return RichHandler(
            console=_console(), show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S"
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    return handler


_SHARED: dict[str, Any] = {}


def _console() -> Any:
    from rich.console import Console

    return _SHARED.setdefault("console", Console(file=sys.stderr))


class Progress:
    """How far a piece of work is: `advance` and `set` move it, facts are shown beside it."""

    def __init__(self, total: int, description: str, unit: str) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.done = 0
        self.facts: dict[str, Any] = {}
        self.started = time.monotonic()
        self.begun_at, self.moved = 0, False

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Counts `n` more as done."""
        self.moved = True
        self._move(self.done + n, facts)

    def set(self, done: int, **facts: Any) -> None:
        """Says how many are done; the first call, before any work, says what was found done already."""
        if not self.moved:
            self.moved, self.begun_at = True, done
        self._move(done, facts)

    def _move(self, done: int, facts: dict[str, Any]) -> None:
        self.done = done
        self.facts.update(facts)
        self.show()

    def show(self) -> None:
        """Draws the state; what that means depends on the kind of output."""

    def close(self) -> None:
        """Draws the last state."""

    def line(self) -> str:
        """The state in one plain line: done, total, rate, time left, facts."""
        seconds = time.monotonic() - self.started
        rate = (self.done - self.begun_at) / seconds if seconds > 0 else 0.0
        total = f"/{self.total}" if self.total else ""  # 0: nobody knows how many there are
        parts = [f"{self.description}: {self.done}{total} {self.unit}"]
        if rate > 0 and self.done < self.total:
            parts.append(f"{_rate(rate, self.unit)}, {_duration((self.total - self.done) / rate)} left")
        elif self.done >= self.total:
            parts.append(f"in {_duration(seconds)}")
        parts += [f"{key} {_fact(value)}" for key, value in self.facts.items()]
        return ", ".join(parts)


class PlainProgress(Progress):
    """One line per 30 seconds, for log files and cluster output."""

    spoken = 0.0
    said = ""

    def __init__(self, total: int, description: str, unit: str) -> None:
        super().__init__(total, description, unit)
        # Bound now: a program may redirect stderr while its bar is up.
        self.stream = sys.stderr

    def show(self) -> None:
        now = time.monotonic()
        if now - max(self.spoken, self.started) >= PLAIN_INTERVAL:
            self.spoken = now
            self._say()

    def close(self) -> None:
        self._say()

    def _say(self) -> None:
        line = self.line()
        if line != self.said:
            self.said = line
            print(line, file=self.stream, flush=True)


class BarProgress(Progress):
    """A rich bar on a terminal."""

    def __init__(self, total: int, description: str, unit: str) -> None:
        super().__init__(total, description, unit)
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn(unit),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[facts]}"),
        )
        self.bar = bars.Progress(*columns, console=_console(), transient=False)
        self.task = self.bar.add_task(description, total=total or None, facts="")
        self.bar.start()

    def show(self) -> None:
        facts = "  ".join(f"{key} {_fact(value)}" for key, value in self.facts.items())
        self.bar.update(self.task, completed=self.done, facts=facts)

    def close(self) -> None:
        self.bar.stop()


class HeardProgress(Progress):
    """Tells a listener instead of drawing: a program that runs other programs shows one bar for all."""

    def show(self) -> None:
        _SHARED["listener"](self)


@contextlib.contextmanager
def listening(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Within the block every progress display reports its state to `listener` and draws nothing."""
    before = _SHARED.get("listener")
    _SHARED["listener"] = listener
    try:
        yield
    finally:
        _SHARED["listener"] = before


@contextlib.contextmanager
def progress(total: int, description: str, unit: str) -> Iterator[Progress]:
    """A progress display for `total` units of work, silent on all but the first rank of a launch."""
    if int(os.environ.get("RANK", "0")) != 0:
        yield Progress(total, description, unit)
        return
    kind: type[Progress] = BarProgress if sys.stderr.isatty() else PlainProgress
    if _SHARED.get("listener"):
        kind = HeardProgress
    display = kind(total, description, unit)
    try:
        yield display
    finally:
        display.close()


def _rate(per_second: float, unit: str) -> str:
    return f"{per_second:.1f} {unit}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _fact(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
