"""`python -m train`."""

from drspo.cli import run

if __name__ == "__main__":
    run("train.command:main")
