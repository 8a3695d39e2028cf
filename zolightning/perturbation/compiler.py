"""Running a kernel compiled where that pays and a compiler is there, and eager elsewhere: one source for both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

import torch

log = logging.getLogger(__name__)

# Compiling costs tens of seconds once; below this many weights an eager run of a few thousand steps is sooner done.
WORTH_COMPILING = 1_000_000


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

    def run(self, kernel: Callable[..., None], smallest: int, *arguments: object) -> None:
        """Run a kernel.

        Args:
            kernel: writes its results into tensors among its arguments.
            smallest: the smallest first dimension of its tensors. With one it runs eager: that would take code of its
                own.
            arguments: the kernel's.
        """
        if not self.enabled or smallest < 2:
            kernel(*arguments)
            return
        key = (kernel, _kinds(arguments))
        try:
            if key not in _VARIANTS:
                _VARIANTS[key] = _compile(kernel, arguments)
            _VARIANTS[key](*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.enabled = False
            log.warning("The update kernels run uncompiled, about ten times slower: %s", str(error).splitlines()[0])
            kernel(*arguments)


class Compilations:
    """How many kernels this process has compiled, and the seconds that took; those found on disk count too."""

    number = 0
    seconds = 0.0


_VARIANTS: dict[object, Callable[..., None]] = {}


def _kinds(value: object) -> object:
    """Return what code depends on: dtypes, devices and dimensions of tensors, but not their sizes."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.device, value.ndim
    if isinstance(value, tuple | list):
        return tuple(map(_kinds, value))
    return value


def _compile(kernel: Callable[..., None], arguments: tuple[object, ...]) -> Callable[..., None]:
    """Compile a kernel once for all sizes.

    What torch checks at every call of a compiled function takes longer than most of the calls, and `_kinds` has seen to
    it already.
    """
    start = time.perf_counter()
    compiled: Any = torch.compile(kernel, dynamic=True, fullgraph=True)
    ready = compiled.aot_compile((arguments, {}))
    ready.disable_guard_check()
    Compilations.number += 1
    Compilations.seconds += time.perf_counter() - start
    return cast("Callable[..., None]", ready)
