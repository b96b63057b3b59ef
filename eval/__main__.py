"""`python -m eval`."""

from drspo.cli import run

if __name__ == "__main__":
    run("eval.command:main")
