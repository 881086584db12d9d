"""Launches of Triton kernels, which cost the host little."""

from typing import Any

import torch
from torch import Tensor

_compiled: dict[tuple[Any, ...], Any] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run the kernel on the device of its first tensor. Every kernel is launched here.

    Triton finds the program of a call by looking at every argument anew. Here it is found by what
    Triton compiles for: types, alignments, and the options, in less than half of that time.
    """
    if not all(grid):
        return
    if not arguments[0].is_cuda:
        kernel[grid](*arguments, **options)
        return
    with torch.cuda.device_of(arguments[0]):
        # What Triton compiles anew for on an NVIDIA GPU: types, alignments, and whether a count is
        # 1, a multiple of 16, or one of 64 bits.
        key = (
            kernel,
            arguments[0].device,
            *[
                (one.dtype, not one.data_ptr() % 16)
                if isinstance(one, Tensor)
                else type(one) is float or (one == 1, not one % 16, -(2**31) <= one < 2**31)
                for one in arguments
            ],
            *options.values(),
        )
        program = _compiled.get(key)
        if program is None:
            # Every product is rounded before it is added, as torch does.
            program = kernel[grid](*arguments, **options, enable_fp_fusion=False)
            # There is none in the interpreter.
            if program is not None:
                constants = [options[name] for name in kernel.arg_names[len(arguments) :]]
                _compiled[key] = program, constants
            return
        program, constants = program
        program[(*grid, 1, 1)[:3]](*arguments, *constants)
