"""How kernels are called: by tensors, of what the library in C++ declares."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from rarememory import native
from tests.kernels import checked

KERNEL = re.compile(r'extern "C" (\w+) rarememory_(\w+)\(([^)]*)\)\s*{')
KINDS = {
    **{"float*": native._floats, "double*": native._doubles, "int64_t*": native._integers},
    **{"uint8_t*": native._bytes, "bool*": native._bools, "void": None},
    **{"float": ctypes.c_float, "double": ctypes.c_double, "int": ctypes.c_int},
    "bool": ctypes.c_bool,
    # A state of random numbers is 64 bits, whatever they stand for.
    **{"int64_t": ctypes.c_int64, "uint64_t": ctypes.c_int64},
}


def declared() -> dict[str, tuple[object, list[object]]]:
    """What each kernel returns and takes, as the sources say."""
    sources = [path.read_text() for path in Path(native.__file__).parent.glob("*.cpp")]
    if not sources:
        pytest.skip("the package is here without the sources of the library")
    return {
        name: (KINDS[result], [kind_of(parameter) for parameter in parameters.split(",")])
        for source in sources
        for result, name, parameters in KERNEL.findall(source)
    }


def kind_of(parameter: str) -> object:
    return KINDS[parameter.replace("const ", "").split()[0]]


def test_signatures_are_those_of_the_sources():
    kernels = declared()
    # It is called by kernels only.
    del kernels["ranked_coded"]
    assert kernels.keys() == native._SIGNATURES.keys()
    for name, (result, parameters) in kernels.items():
        assert native._SIGNATURES[name] == parameters, name
        assert native._RETURNS.get(name) is result, name


class Marked(torch.Tensor):
    """A class of tensors as other packages have them."""


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("kind", [torch.nn.Parameter, lambda rows: rows.as_subclass(Marked)])
def test_a_tensor_of_a_subclass_is_passed_as_a_tensor(kind):
    rows, units = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    assert native.library().normalize(kind(rows), 1, 2, units) == 0
    assert torch.allclose(units, torch.tensor([[0.6, 0.8]]))


def test_a_tensor_that_only_wraps_others_is_refused():
    rows = TwoTensor(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(TypeError, match="a TwoTensor has no numbers of its own: give a plain"):
        native.prepared(rows)


def test_a_prepared_argument_is_a_pointer_in_the_place_of_a_tensor():
    rows, units = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    arguments = native.prepared(rows, 1, 2, units)
    assert arguments == [rows.data_ptr(), 1, 2, units.data_ptr()]
    assert native.library().normalize(*arguments) == 0 and units.all()
    assert native.prepared(None, 0.5) == [None, 0.5]


ROWS, UNITS, WIDE = torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 4)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((ROWS.double(), 2, 2, UNITS), "argument 0 of .* is torch.float64 on cpu, not"),
        ((ROWS.to("meta"), 2, 2, UNITS), "argument 0 .* on meta"),
        ((ROWS, 2, 2, WIDE[:, ::2]), "argument 3 .* strides"),
        ((ROWS[:1].expand(2, 2), 2, 2, UNITS), "argument 0 .* strides"),
        ((ROWS, torch.tensor(2), 2, UNITS), "argument 1 .* is a tensor"),
        ((ROWS, 2, 2, 4096), "argument 3 .* is a number"),
    ],
)
def test_tests_refuse_what_a_kernel_would_read_wrongly(arguments, fault):
    with pytest.raises(AssertionError, match=fault):
        native.library().normalize(*arguments)


def test_tests_refuse_a_pointer_to_what_is_gone():
    arguments = native.prepared(torch.ones(2, 2), 2, 2, UNITS)
    with pytest.raises(AssertionError, match=r"argument 0 .* gone"):
        native.library().normalize(*arguments)


def test_a_kernel_is_given_as_many_arguments_as_it_has():
    kernel = ctypes.CFUNCTYPE(None, native._floats)()
    kernel.argtypes = [native._floats]
    with pytest.raises(ValueError, match="argument"):
        checked(kernel)(ROWS, 3)


def test_pointers_are_made_in_one_place():
    package = Path(native.__file__).parents[1]
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    found = {name for name, path in files.items() if "data_ptr" in path.read_text("utf-8")}
    # The others call no kernel: they compare addresses, or read bytes.
    others = {"base/spot_checks.py", "base/versions.py", "classifier/heads.py"}
    assert found == {"native/__init__.py", "lookup/triton_launch.py", *others}
