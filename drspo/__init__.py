"""The spine of DRSPO: configuration, registry, run folders, logging, and the `drspo` command.

Nothing here imports torch or ray, so that `drspo --help` answers at once.
"""

__version__ = "0.1.0"
