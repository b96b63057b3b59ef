"""`python -m dataset_builder` builds a preference dataset, as `drspo build` does."""

from drspo.cli import run

if __name__ == "__main__":
    run("dataset_builder.command:main")
