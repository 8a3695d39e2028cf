"""Running a kernel compiled where that pays and a compiler is there, and eager elsewhere: one source for both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A compiled kernel: it takes the list of all tensors among the arguments, in order.
Code = Callable[[list[Tensor]], object]

log = logging.getLogger(__name__)

# Compiling costs tens of seconds once; below this many weights an eager run of a few thousand steps is sooner done.
WORTH_COMPILING = 1_000_000


class Compiler:
    """Runs kernels compiled by torch, or eager.

    The two agree in every random integer and, in the floats made from them, to 2e-6 relative. What has been compiled is
    kept for the process, and by torch on disk for the next.

    Args:
        enabled: whether to compile; None decides by `num_weights`.
        num_weights: how many weights the kernels will work on.
    """

    def __init__(self, enabled: bool | None, num_weights: int) -> None:
        self.enabled = num_weights >= WORTH_COMPILING if enabled is None else enabled

    def word_dtype(self, device: torch.device) -> torch.dtype:
        """Return the dtype that kernels make random words in soonest; see `zolightning.perturbation.philox`."""
        return torch.int32 if self.enabled and device.type == "cpu" else torch.int64

    def run(self, kernel: Callable[..., None], smallest: int, *arguments: object) -> None:
        """Run a kernel.

        Args:
            kernel: writes its results into tensors among its arguments. The first dimension of each of these counts
                rows, two or more, or is always one; code is made for any number of rows, and for the other dimensions
                as they are.
            smallest: the smallest number of rows of its tensors. With one it runs eager: that would take code of its
                own.
            arguments: the kernel's.
        """
        self.run_each(kernel, smallest, arguments, [[]])

    def run_each(
        self, kernel: Callable[..., None], smallest: int, arguments: Sequence[object], lasts: Sequence[list[Tensor]]
    ) -> None:
        """Run a kernel several times, one after the other; as `run`, where what code depends on is looked up once.

        Args:
            kernel: as `run` has it.
            smallest: as `run` has it.
            arguments: the kernel's first ones, the same in all runs.
            lasts: the tensors that follow in each run, which differ in their values alone.
        """
        if not self.enabled or smallest < 2:
            for last in lasts:
                kernel(*arguments, *last)
            return
        shared: list[Tensor] = []
        kinds = _kinds(arguments, shared)
        key = (kernel, kinds, _kinds(lasts[0], []))
        for number, last in enumerate(lasts):
            if key in _VARIANTS:
                _VARIANTS[key]([*shared, *last])
            elif not self._compiles(key, kernel, (*arguments, *last), [*shared, *last]):
                for left in lasts[number:]:
                    kernel(*arguments, *left)
                return

    def _compiles(
        self, key: object, kernel: Callable[..., None], arguments: tuple[object, ...], tensors: list[Tensor]
    ) -> bool:
        """Make code for a kernel and run it once; return False if it cannot be made, from when on all runs eager."""
        try:
            code = _compile(kernel, arguments)
            # What does not run at all, as without a driver's library, shows at the first call.
            code(tensors)
            _VARIANTS[key] = code
            return True
        # No reason to run a kernel again that may have written.
        except torch.OutOfMemoryError:
            raise
        # Whatever keeps a compiler from its work: eager code does the same, or raises what is wrong with it.
        except Exception as error:
            self.enabled = False
            reason = str(error).strip().split("\n", 1)[0]
            log.warning("The kernels run uncompiled, about ten times slower: %s: %s", type(error).__name__, reason)
            return False


class Compilations:
    """How many kernels this process has compiled, and the seconds that took; those found on disk count too."""

    number = 0
    seconds = 0.0


# By kernel and kinds of arguments.
_VARIANTS: dict[object, Code] = {}


def _kinds(value: object, tensors: list[Tensor]) -> object:
    """Return what code depends on, which is all but the number of rows of tensors, and collect those."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.dtype, value.device, value.shape[1:], value.stride()
    if isinstance(value, tuple | list):
        return tuple([_kinds(item, tensors) for item in value])
    return value


def _compile(kernel: Callable[..., None], arguments: tuple[object, ...]) -> Code:
    # Here, because it takes seconds to import, and because a torch that has moved its parts costs speed only.
    from zolightning.perturbation.inductor import compile_kernel

    start = time.perf_counter()
    code = compile_kernel(kernel, arguments)
    Compilations.number += 1
    Compilations.seconds += time.perf_counter() - start
    return code
