"""Code for a kernel, made by the parts that torch.compile is made of.

What torch.compile wraps around the code checks at every call what the caller knows already, and takes longer than most
calls of these kernels. The parts are not torch's public interface, and have moved before.
"""

from __future__ import annotations

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

from zolightning.perturbation.compiler import Code

# On a CPU code is made for so many times the rows at hand, which may be too few to share among threads.
_TIMES = 1 << 10


def compile_kernel(kernel: Callable[..., None], arguments: tuple[object, ...]) -> Code:
    """Compile a kernel for any number of rows; torch keeps the code on disk.

    Args:
        kernel: writes its results into tensors among its arguments, whose first dimension counts rows or is one.
        arguments: tensors, constants, and tuples or lists of them.

    Returns:
        A function of the list of all tensors among the arguments, which it empties.
    """
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
            return cast("Code", compile_fx_inner(graph, fakes))


def _any_number_of_rows(tensor: Tensor, mode: FakeTensorMode, name: str) -> Tensor:
    """Return a tensor without data, of which the first dimension is a symbol unless it is one."""
    size: list[Any] = list(tensor.shape)
    environment = mode.shape_env
    if size and size[0] != 1 and environment is not None:
        likely, source = size[0] * (_TIMES if tensor.device.type == "cpu" else 1), ConstantSource(name)
        symbol = environment.create_symbol(likely, source, DimDynamic.DYNAMIC)
        size[0] = environment.create_symintnode(symbol, hint=likely, source=source)
    with mode:
        return torch.empty_strided(size, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
