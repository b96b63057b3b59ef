"""A small SDXL-family model zoo and the drawn world that it was trained on."""
