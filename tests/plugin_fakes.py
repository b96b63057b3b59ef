"""Stand-ins for models: deterministic pictures from the prompt and the seed, and a log of what was made."""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from drspo.hashing import seed_from
from generate.request import Generator


@dataclass(frozen=True)
class PainterConfig:
    poison: str = ""
    how: str = "raise"
    meet: int = 0
    awaits: str = ""


class Painter(Generator):
    """Noise from (prompt, seed); on a prompt with the poison word it raises, crashes or hangs; with `meet`
    it begins once so many processes paint, with `awaits` once a text with that word was filtered."""

    name = "painter"
    config_class = PainterConfig

    def generate(self, requests: list, callback: object = None) -> list:
        return [self._one(request) for request in requests]

    def _one(self, request: object) -> SimpleNamespace:
        poison = self.config.poison or os.environ.get("FAKE_POISON")
        if poison and poison in request.prompt:
            misbehave(self.config.how)
        # From the environment, so that they are no part of what identifies an image.
        log, seconds = os.environ.get("FAKE_LOG"), float(os.environ.get("FAKE_SECONDS", "0"))
        if log:
            append(log, f"{type(self).__name__} {request.prompt} {request.seed}")
            append(f"{log}.pids", str(os.getpid()))
            tell_node("paint")
            wait_for_processes(Path(f"{log}.pids"), self.config.meet)
            wait_for_text(log, self.config.awaits)
        time.sleep(seconds)
        rng = np.random.default_rng(seed_from(type(self).__name__, request.prompt, request.seed))
        pixels = rng.integers(0, 255, (request.height // 8, request.width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((request.width, request.height))
        return SimpleNamespace(request=request, image=image, seconds=seconds, extras={}, facts={})


class Sketcher(Painter):
    """A second generator."""

    name = "sketcher"


class Brightness:
    """Mean red, or another channel, of the decoded picture."""

    name, unit, checkpoint, checkpoint_hash, view = "brightness", "mean red", "none", "0", "whole"

    def __init__(self, poison: str = "", how: str = "raise", channel: int = 0) -> None:
        self.poison, self.how, self.channel = poison, how, channel

    def score(self, images: list, prompts: list[str]) -> list[float]:
        if self.poison and any(self.poison in prompt for prompt in prompts):
            misbehave(self.how)
        tell_node("score")
        return [self.value(np.asarray(image)) for image in images]

    def value(self, pixels: np.ndarray) -> float:
        return float(pixels[..., self.channel].mean())


class Contrast(Brightness):
    """Standard deviation of the picture."""

    def value(self, pixels: np.ndarray) -> float:
        return float(pixels.std())


def wait_for_processes(pids: Path, count: int, seconds: float = 300) -> None:
    """Until so many processes have written theirs; RuntimeError when they do not come."""
    ends = time.monotonic() + seconds
    while len(set(pids.read_text().split())) < count:
        if time.monotonic() > ends:
            raise RuntimeError(f"only {set(pids.read_text().split())} came to work")
        time.sleep(0.05)


def wait_for_text(log: str, word: str, seconds: float = 120) -> None:
    """Until `tells` has seen a text with the word; RuntimeError when it has not."""
    deadline = time.monotonic() + seconds
    while word and not any(word in line for line in _lines(Path(f"{log}.texts"))):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody has filtered a text with {word!r}")
        time.sleep(0.02)


def tells(row: dict) -> None:
    """A filter that objects to nothing, and leaves every text that it saw."""
    append(f"{os.environ['FAKE_LOG']}.texts", row["text"])


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def misbehave(how: str) -> None:
    if how == "raise":
        raise RuntimeError("poisoned prompt")
    if how == "segfault":
        import ctypes

        ctypes.string_at(0)
    if how == "killed":  # as the kernel does when memory runs out
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "terminated":  # as `ray stop` does to every worker of its node, whatever it is at
        if is_first(how):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return
    if how == "hang":
        time.sleep(3600)
    if how == "memory":
        fill_memory()
    raise RuntimeError(how)


def fill_memory(spare: int = 64 * 2**20) -> None:
    """Allocate until there is no more, within a limit of a little above what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, hard))
    hoard = []
    try:
        while True:
            hoard.append(bytearray(2**22))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def tell_node(work: str) -> None:
    """Write down on which node of a cluster this work is done, where FAKE_NODES names a file."""
    if os.environ.get("FAKE_NODES"):
        import ray

        append(os.environ["FAKE_NODES"], f"{work} {ray.get_runtime_context().get_node_id()}")


def append(path: str, line: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(line + "\n")


def dies_once(row: dict) -> None:
    """A filter that takes its worker with it, the first time that it sees a windmill."""
    if "windmill" in row["text"] and is_first("died"):
        os._exit(1)


def fails_at_castles(row: dict) -> None:
    """A filter that fails for castles while FAKE_FAILS is set."""
    if os.environ.get("FAKE_FAILS") and "castle" in row["text"]:
        raise OSError("the filter's server is down")


def is_first(what: str) -> bool:
    """Whether no worker has said this before, beside FAKE_LOG."""
    try:
        os.close(os.open(f"{os.environ['FAKE_LOG']}.{what}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def quick_or_endless(store: object, shards: list, *_: object) -> list[str]:
    """A task that writes shards: one that is called quick dies, then ends once another, which never does, has
    begun."""
    log = f"{os.environ['FAKE_LOG']}.endless"
    if shards[0].name == "quick":
        if is_first("quick"):
            os._exit(1)
        while not _lines(Path(log)):
            time.sleep(0.02)
        return ["quick"]
    append(log, str(os.getpid()))
    while True:
        time.sleep(0.1)
