"""`python -m dataset_builder`."""

from drspo.cli import run

if __name__ == "__main__":
    run("dataset_builder.command:main")
