"""Any method with an upscaler behind it: the scroll is made smaller and enlarged to what was asked for."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from drspo.errors import UserError
from generate.images.upscale import SCALES, Upscaler
from generate.request import Callback, Generated, Generator, Request


class Upscaled(Generator):
    """A generator whose scrolls are made at a part of their size and enlarged (the paper's "+ ESRGAN")."""

    def __init__(self, inner: Generator, upscaler: Upscaler, scale: int) -> None:
        super().__init__(inner.family, inner.config)
        self.inner, self.upscaler, self.scale = inner, upscaler, scale
        self.name = inner.name  # type: ignore[misc]

    @property
    def parts(self) -> dict[str, Any]:
        """The inner method's."""
        return self.inner.parts

    def check(self, requests: list[Request]) -> None:
        """UserError for anything wrong with the requests or the settings, at the size they are made at."""
        self.inner.check([smaller(request, self.scale) for request in requests])

    def resolved(self, request: Request) -> Any:
        """The inner method's settings in force."""
        return self.inner.resolved(smaller(request, self.scale))

    def count_steps(self, request: Request) -> int:
        """How many steps a callback sees for one request."""
        return self.inner.count_steps(smaller(request, self.scale))

    def generate(self, requests: list[Request], callback: Callback | None = None) -> list[Generated]:
        """One scroll per request; what it was before it was enlarged is among the extras, as "small"."""
        made = self.inner.generate([smaller(request, self.scale) for request in requests], callback)
        return [self._enlarged(request, one) for request, one in zip(requests, made, strict=True)]

    def _enlarged(self, request: Request, made: Generated) -> Generated:
        started = time.perf_counter()
        large = self.upscaler.enlarge(made.image, self.scale)
        return replace(
            made,
            request=request,
            image=large,
            seconds=made.seconds + time.perf_counter() - started,
            extras={**made.extras, "small": made.image},
            facts={**made.facts, **self.upscaler.facts(self.scale)},
        )


def smaller(request: Request, scale: int) -> Request:
    """The request at the size that is enlarged by `scale`; UserError where a side cannot be divided."""
    if scale != 1 and scale not in SCALES:
        raise UserError(f"scrolls are enlarged by 2 or 4, not {scale}", where="--upscale")
    if request.height % scale or request.width % scale:
        down = [max(side // scale, 1) * scale for side in (request.height, request.width)]
        raise UserError(
            f"a scroll of {request.height}x{request.width} cannot be made {scale} times smaller",
            where="--upscale",
            hint=f"{down[0]}x{down[1]} can.",
        )
    return replace(request, height=request.height // scale, width=request.width // scale)
