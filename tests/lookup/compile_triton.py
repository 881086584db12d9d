"""Compile every kernel that a search, a read or a write would launch, for a chip that need not be
here.

`python -m tests.lookup.compile_triton` prints one line of JSON a kernel: what it takes of the chip.
A process of its own, since the tests beside it run the same kernels in Triton's interpreter.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rarememory import Memory
from rarememory.lookup import triton as triton_file
from rarememory.lookup.triton_plan import Chip
from rarememory.memory import reading_on_gpu, writing_on_gpu

SLOTS = 2**20
CHIPS = {90: Chip(processors=132, generation=9), 80: Chip(processors=108, generation=8)}
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
USED = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


def searches(capability: int) -> Iterator[tuple[int, int, int, bool]]:
    """Key width, batch, k (0 is the pair), and whether there is a float16 copy.

    Each tile that the plan may choose at the common and the largest width, the widest tile between
    them, and every kind of search at the common width. The many of k = 256 hold the most registers.
    Of the older generation the tiles of the common width only: a compilation takes more than a
    second.
    """
    newer = capability == 90
    for key_dim in (128, 512) if newer else (128,):
        for batch in (16, 64, 256):
            yield key_dim, batch, 256, True
    yield 128, 256, 0, True
    if newer:
        for key_dim in (64, 256):
            yield key_dim, 256, 256, True
        yield 128, 64, 256, False
        yield 128, 16, 0, True
        yield 128, 16, 8, True
        yield 512, 256, 0, True


def launches(capability: int) -> dict[str, tuple]:
    """What the searches would launch, each kind once; the tensors have no numbers."""
    seen = {}

    def note(kernel, grid, *arguments, **options) -> None:
        # What follows the streaming pass differs little by width.
        if kernel.__name__ != "bin_maxima" and options.get("KEY_DIM", 128) != 128:
            return
        key = json.dumps(
            [kernel.__name__, *(kind(a) for a in arguments), sorted(options.items())], default=str
        )
        seen.setdefault(key, (kernel, arguments, options))

    triton_file.launch, triton_file._chip = note, lambda device: CHIPS[capability]
    reading_on_gpu.launch = writing_on_gpu.launch = note
    lookup = triton_file.TritonLookup(interpret=True)
    with torch.device("meta"):
        for key_dim, batch, k, copied in searches(capability):
            keys, queries = torch.empty(SLOTS, key_dim), torch.empty(batch, key_dim)
            half_keys = keys.half() if copied else None
            if k:
                occupied = torch.empty(SLOTS, dtype=torch.bool)
                lookup.nearest(queries, keys, occupied, k, half_keys=half_keys)
                if (capability, key_dim, batch, copied) == (90, 128, 64, True):
                    for among in (occupied, occupied.expand(batch, -1)):
                        lookup.nearest(queries, keys, occupied, k, half_keys=half_keys, among=among)
            else:
                values, labels = (torch.empty(n, dtype=torch.int64) for n in (SLOTS, batch))
                lookup.nearest_pair(queries, keys, values, labels, half_keys=half_keys)
        if capability == 90:
            memory = Memory(128, SLOTS, lookup=lookup, validate=False)
            queries, labels = torch.empty(256, 128), torch.empty(256, dtype=torch.int64)
            for recall in (memory(queries, labels), memory(queries), memory(queries, k=1)):
                memory.write(recall, labels)
    return seen


def kind(argument: object) -> str:
    """The type that a compiled kernel is chosen by."""
    if isinstance(argument, torch.Tensor):
        return TYPES[argument.dtype]
    return "fp32" if isinstance(argument, float) else "i32"


def compiled(kernel, arguments, options, capability: int) -> dict[str, object]:
    names = dict(zip(kernel.arg_names, arguments, strict=False))
    constants = {name: value for name, value in options.items() if name.isupper()}
    signature = {
        name: "constexpr" if name in constants else kind(names[name]) for name in kernel.arg_names
    }
    # As the launcher finds them: fresh tensors lie at multiples of 16, and so do counts of bins.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in ("slots", "bins")
    }
    source = ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        aligned,
    )
    chosen = {name: options[name] for name in ("num_warps", "num_stages") if name in options}
    binary = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={**chosen, "enable_fp_fusion": False},
    )
    registers, stack, local = used(binary.asm["cubin"])
    return {
        "kernel": kernel.__name__,
        "options": {**constants, **chosen},
        "capability": capability,
        "registers": registers,
        "spilled": stack + local,
        "shared": binary.metadata.shared,
        "tensor_cores": any(name in binary.asm["ptx"] for name in ("wgmma", "mma.sync")),
    }


def used(cubin: bytes) -> tuple[int, int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        told = subprocess.run(
            [CUOBJDUMP, "-res-usage", path], capture_output=True, text=True, check=True
        )
    registers, stack, local = USED.search(told.stdout).groups()
    return int(registers), int(stack), int(local)


if __name__ == "__main__":
    for capability in CHIPS:
        for launch in launches(capability).values():
            print(json.dumps(compiled(*launch, capability)), flush=True)
