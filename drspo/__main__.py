"""`python -m drspo` is the console command `drspo`."""

from drspo.cli import entry

if __name__ == "__main__":
    entry()
