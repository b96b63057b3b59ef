"""Pictures of a run as files."""

import io
from pathlib import Path

from PIL import Image

from drspo.files.storage import Storage


def save_picture(image: Image.Image, path: Path) -> None:
    """Writes a PNG that is whole or absent."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    Storage(path.parent).write(path.name, data.getvalue())
