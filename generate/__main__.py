"""`python -m generate`."""

from drspo.cli import run

if __name__ == "__main__":
    run("generate.program.command:main")
