"""`python -m generate`."""

from drspo.cli import run

if __name__ == "__main__":
    run("generate.command:main")
