"""Running a kernel compiled where that pays and a compiler is there, and eager elsewhere: one source for both."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

# Compiling costs tens of seconds once; below this many weights an eager run of a few thousand steps is sooner done.
WORTH_COMPILING = 1_000_000
# Short tensors would be compiled for on their own: shapes of one are never left open.
_SMALLEST_COMPILED = 4096


class Compiler:
    """Runs kernels through torch.compile, or eager.

    The two agree in every random integer and, in the floats made from them, to 2e-6 relative. What has been compiled is
    kept for the process, and by torch on disk for the next.

    Args:
        enabled: whether to compile; None decides by `num_weights`.
        num_weights: how many weights the kernels will work on.
    """

    def __init__(self, enabled: bool | None, num_weights: int) -> None:
        self.enabled = num_weights >= WORTH_COMPILING if enabled is None else enabled

    def run(self, kernel: Callable[..., None], size: int, *arguments: object) -> None:
        """Run a kernel on `size` elements; small ones run eager, where a shape of their own is not worth compiling."""
        if not self.enabled or size < _SMALLEST_COMPILED:
            kernel(*arguments)
            return
        try:
            _compiled(kernel)(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.enabled = False
            log.warning("The update kernels run uncompiled, about ten times slower: %s", str(error).splitlines()[0])
            kernel(*arguments)


class Compilations:
    """How many kernels this process has compiled, and the seconds that took; those found on disk count too."""

    number = 0
    seconds = 0.0


def _count_and_compile(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    start = time.perf_counter()
    inductor = torch._dynamo.lookup_backend("inductor")
    compiled: Callable[..., Any] = inductor(graph, inputs)
    Compilations.number += 1
    Compilations.seconds += time.perf_counter() - start
    return compiled


@functools.cache
def _compiled(kernel: Callable[..., None]) -> Callable[..., None]:
    return torch.compile(kernel, dynamic=True, backend=_count_and_compile)
