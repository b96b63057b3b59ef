"""A damaged file of the run folder, told from one that is gone and from a store that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from drspo.errors import UserError
from drspo.files.parquet import DAMAGES
from drspo.files.patience import StoreFailsError


class DamagedFile(UserError):
    """A file of the run folder that is truncated, foreign, or made by another configuration."""

    def __init__(self, name: str, why: str) -> None:
        hint = "The builder's command moves it aside and makes it anew."
        super().__init__(f"a file of the run is damaged: {why}", name, hint)
        self.name = name
        self.why = why

    def __reduce__(self) -> tuple[type[DamagedFile], tuple[str, str]]:
        return type(self), (self.name, self.why)


@contextlib.contextmanager
def found_damaged(name: str) -> Iterator[None]:
    """Turns what a damaged Parquet file makes its reader raise into DamagedFile.

    FileNotFoundError, of a file that was taken away while it was read too, and StoreFailsError are raised on.
    """
    try:
        yield
    except (UserError, *DAMAGES) as error:
        if isinstance(error, (DamagedFile, StoreFailsError, FileNotFoundError)):
            raise
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from error
        raise DamagedFile(name, f"not a whole Parquet file ({error})") from error
