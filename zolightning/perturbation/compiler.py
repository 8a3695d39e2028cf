"""Running a kernel compiled where that pays and a compiler is there, and eager elsewhere: one source for both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

import torch
import torch._inductor.config as inductor
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._guards import TracingContext, tracing
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils import _pytree as pytree

log = logging.getLogger(__name__)

# Compiling costs tens of seconds once; below this many weights an eager run of a few thousand steps is sooner done.
WORTH_COMPILING = 1_000_000

_MANY = 1 << 10


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
            kernel: writes its results into tensors among its arguments. The first dimension of each of these counts
                rows, two or more, or is always one; code is made for any number of rows, and for the other dimensions
                as they are.
            smallest: the smallest number of rows of its tensors. With one it runs eager: that would take code of its
                own.
            arguments: the kernel's.
        """
        if not self.enabled or smallest < 2:
            kernel(*arguments)
            return
        tensors: list[Tensor] = []
        key = (kernel, _kinds(arguments, tensors))
        if key not in _VARIANTS:
            try:
                _VARIANTS[key] = _compile(kernel, arguments)
            # Whatever keeps a compiler from its work: eager code does the same, or raises what is wrong with it.
            except Exception as error:
                self.enabled = False
                reason = str(error).strip().split("\n", 1)[0]
                log.warning("The kernels run uncompiled, about ten times slower: %s: %s", type(error).__name__, reason)
                kernel(*arguments)
                return
        _VARIANTS[key](tensors)


class Compilations:
    """How many kernels this process has compiled, and the seconds that took; those found on disk count too."""

    number = 0
    seconds = 0.0


# By kernel and kinds of arguments; takes all tensors among them, in order.
_VARIANTS: dict[object, Callable[[list[Tensor]], object]] = {}


def _kinds(value: object, tensors: list[Tensor]) -> object:
    """Return what code depends on, which is all but the number of rows of tensors, and collect those."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.dtype, value.device, value.shape[1:], value.stride()
    if isinstance(value, tuple | list):
        return tuple([_kinds(item, tensors) for item in value])
    return value


def _compile(kernel: Callable[..., None], arguments: tuple[object, ...]) -> Callable[[list[Tensor]], object]:
    """Compile a kernel once for any number of rows.

    By the parts of torch.compile: what it wraps around the code checks what `_kinds` has seen to already, and takes
    longer than most of the calls.
    """
    start = time.perf_counter()
    leaves, structure = pytree.tree_flatten(arguments)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def on_tensors(*tensors: Tensor) -> tuple[()]:
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor
        kernel(*pytree.tree_unflatten(leaves, structure))
        return ()

    # Sizes that happen to be equal here are not equal everywhere.
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False))
    fakes = [_any_number_of_rows(leaves[place], mode, f"argument {place}") for place in places]
    with torch.no_grad(), mode, enable_python_dispatcher():
        graph = make_fx(on_tensors, decomposition_table=select_decomp_table())(*fakes)
        with inductor.patch(size_asserts=False, alignment_asserts=False), tracing(TracingContext(mode)):
            compiled = compile_fx_inner(graph, fakes)
    Compilations.number += 1
    Compilations.seconds += time.perf_counter() - start
    return cast("Callable[[list[Tensor]], object]", compiled)


def _any_number_of_rows(tensor: Tensor, mode: FakeTensorMode, name: str) -> Tensor:
    """Return a tensor without data, of which the first dimension is a symbol unless it is one."""
    size: list[Any] = list(tensor.shape)
    environment = mode.shape_env
    if size and size[0] != 1 and environment is not None:
        # Made for many rows, or the compiler may take it that they are too few to share among threads.
        likely, source = size[0] * _MANY, ConstantSource(name)
        symbol = environment.create_symbol(likely, source, DimDynamic.DYNAMIC)
        size[0] = environment.create_symintnode(symbol, hint=likely, source=source)
    with mode:
        return torch.empty_strided(size, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
