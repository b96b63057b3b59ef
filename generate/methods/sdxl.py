"""Direct sampling under the name that it had when it took Stable Diffusion and SDXL only."""

from generate.methods.direct import Config, Direct

__all__ = ["SDXL", "Config"]


class SDXL(Direct):
    """`Direct` by its older name, which published scrolls and datasets bear."""

    name = "sdxl"
