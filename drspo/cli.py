"""The console command `drspo`, and the wrapper that every program of ours runs in."""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from drspo.errors import UserError, did_you_mean

# name -> (lazy target, what it does); `drspo X` and `python -m PACKAGE` are the same function.
COMMANDS = {
    "demo": "drspo.demo.command:main",
    "build": "dataset_builder.command:main",
    "status": "dataset_builder.report.status:main",
    "view": "drspo.view:main",
    "vote": "dataset_builder.votes.command:main",
    "retry-dead": "dataset_builder.retry:main",
    "score": "dataset_builder.score:main",
    "compact": "dataset_builder.compact:main",
    "publish": "dataset_builder.hub.publish:main",
    "train": "train.command:main",
    "generate": "generate.program.command:main",
    "eval": "eval.command:main",
    "merge": "generate.program.merge:main",
    "strips": "eval.report.strips:main",
    "study": "drspo.study.command:main",
    "doctor": "drspo.doctor:main",
}
SUMMARIES = {
    "demo": "the whole story on a CPU in minutes, ending with an HTML page",
    "build": "prompts to scored candidates to preference pairs (python -m dataset_builder)",
    "status": "what is done, failed and remaining in a run",
    "view": "the HTML page of a run: the gallery of its pairs, or what a training learnt",
    "vote": "a page on which people judge scrolls, blind, and what they said",
    "retry-dead": "give a run's dead rows another chance",
    "score": "more scores for the images of a finished run, for pairing",
    "compact": "a run's many unit files to fewer, larger ones, at any moment of the run",
    "publish": "card and shards to the Hub, or --dry-run into a folder",
    "train": "pairs to a LoRA, either stage (python -m train)",
    "generate": "a prompt to a scroll (python -m generate)",
    "eval": "methods x prompts x seeds to tables with intervals (python -m eval)",
    "merge": "a model with a LoRA, or another UNet, put into it, as a folder that --model takes",
    "strips": "a labelled figure of methods beside each other, from a benchmark or from folders",
    "study": "the paper in miniature: pairs, both trainings, both tables, its claims one by one",
    "doctor": "versions, devices, tokens, models, shadowed names, disk",
}
ALIASES = {"dataset_builder": "build", "dataset-builder": "build"}
OK, OURS, THEIRS, DEAD, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
EXIT_CODES = {
    OK: "done",
    OURS: "a fault of ours, with its traceback",
    THEIRS: "your input or your machine: one message says what, where, and what to do",
    DEAD: "done, but more prompts are dead than --dead-threshold allows (the dataset builder)",
    INTERRUPTED: "Ctrl-C; the same command continues",
    TERMINATED: "SIGTERM, as a cluster sends it; the same command continues",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever cleans up after Ctrl-C cleans up after this."""


def entry() -> NoReturn:
    """The console script."""
    run(main)


def main(argv: list[str] | None = None) -> int:
    """Runs the named command on the remaining arguments and gives its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return OK
    if arguments[0] in ("-V", "--version"):
        from drspo import __version__

        print(f"drspo {__version__}")
        return OK
    name = ALIASES.get(arguments[0], arguments[0])
    if name not in COMMANDS:
        raise UserError(f"drspo has no command {arguments[0]!r}", hint=did_you_mean(arguments[0], COMMANDS))
    from drspo import shadow

    shadow.drop_working_directory()
    if name != "doctor":  # which is there to say what is wrong
        shadow.refuse_shadows()
    return _function(COMMANDS[name])(arguments[1:])


def usage() -> str:
    """The help text of `drspo`."""
    width = max(map(len, SUMMARIES))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in SUMMARIES.items())
    codes = "\n".join(f"  {code:<{width}}  {text}" for code, text in EXIT_CODES.items())
    return (
        "usage: drspo COMMAND [OPTIONS]      drspo COMMAND --help\n\n"
        "Preference-aligned generation of long scroll images: data, training, generation, evaluation.\n\n"
        f"commands:\n{commands}\n\n"
        "Every command takes --debug (tracebacks) and --allow-plugins MODULE ... (import code that only a\n"
        f"file names).\n\nexit codes:\n{codes}"
    )


def run(program: Callable[[list[str]], int] | str) -> NoReturn:
    """Runs a program on the command line's arguments and exits as every program of ours does.

    `program` is a main function or its lazy name `module:function`; the name is the better choice
    in a `__main__.py`, since a shadowed package is then reported instead of failing on import.
    """
    argv = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(argv) != len(sys.argv) - 1
    # The first to be registered is the last to be called: after the threads and everybody's clean-up.
    end = _End()
    atexit.register(end)
    try:
        end.code = execute(program, argv, debug)
    except SystemExit as asked:  # of a parser
        end.code = asked.code if isinstance(asked.code, int) else OK if asked.code is None else OURS
        raise
    sys.exit(end.code)


class _End:
    """Ends the process without the destructors of native libraries.

    Arrow's and others' threads may still be alive then, and a thread object that is destroyed while its
    thread runs aborts the process ("terminate called without an active exception") after all is done.
    """

    code = OURS

    def __call__(self) -> None:
        import logging

        logging.shutdown()
        _flush_quietly()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(self.code)


def execute(program: Callable[[list[str]], int] | str, argv: list[str], debug: bool = False) -> int:
    """The exit code of a program, one of EXIT_CODES; what it raises is said in a message for people."""
    from drspo import consent, log

    log.setup(debug=debug)
    try:
        with _terminable():
            return int(_function(program)(consent.take(argv)) or OK)
    except UserError as error:
        return _say_user_error(error, debug)
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            word = "Terminated" if terminated else "Interrupted"
            print(f"\n{word}. To continue, type the same again:\n  {_command_line()}", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone, which is no one's fault.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except Exception as error:
        from drspo.files.storage import explain

        explained = explain(error, str(getattr(error, "filename", "") or ""))
        if explained is not None:
            return _say_user_error(explained, debug)
        traceback.print_exc()
        print("\nThis is a fault of ours, not yours.", file=sys.stderr)
        return OURS


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Within the block SIGTERM raises Terminated, once: a second one ends the process as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_user_error(error: UserError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return THEIRS


def _function(program: Callable[[list[str]], int] | str) -> Callable[[list[str]], int]:
    if not isinstance(program, str):
        return program
    from drspo import registry, shadow

    if not program.startswith("drspo."):
        shadow.refuse_shadows()
    found: Callable[[list[str]], int] = registry.resolve(program)
    return found


def _command_line() -> str:
    main_module = sys.modules.get("__main__")
    spec = getattr(main_module, "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else ""
    start = ["python", "-m", name] if name else [os.path.basename(sys.argv[0])]
    return shlex.join(start + sys.argv[1:])


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
