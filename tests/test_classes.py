"""Classes are composed: one generation of inheritance, private names in one file, few methods."""

import ast
from collections.abc import Iterator

import pytest

from tests.sources import ROOT, python_files

FILES = python_files("rarememory")
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MAX_METHODS = 48

# Abstract interfaces, which do not count as a generation.
INTERFACES = {"LockedModule", "Lookup", "Update"}

# Names with an underscore that belong to torch or to another library, not to this package.
FOREIGN = {"_C", "_apply", "_asdict", "_fields", "_load_from_state_dict", "_modules", "_replace"}
FOREIGN |= {"_call_impl", "_iterator", "_parameters", "_version"}
FOREIGN |= {"_are_functorch_transforms_active"}


def classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def generations(name: str, bases: dict[str, list[str]]) -> int:
    """How many classes of the package, interfaces apart, lie on the longest way to the root."""
    above = [base for base in bases[name] if base in bases and base not in INTERFACES]
    return max((1 + generations(base, bases) for base in above), default=0)


def bases_of(trees: list[ast.Module]) -> dict[str, list[str]]:
    named = (
        (node.name, [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases])
        for tree in trees
        for node in classes(tree)
    )
    return dict(named)


def private_uses(tree: ast.Module) -> set[str]:
    """Names x._name of a class or an object that this file neither sets nor defines."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)}  # fmt: skip
    used = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
            continue
        of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        of_super = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
        if of_self or of_super:
            own.add(node.attr)
        elif not node.attr.endswith("__"):
            used.add(node.attr)
    return used - own - FOREIGN


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [part for part in node.body if isinstance(part, ast.FunctionDef)]


def test_no_class_inherits_more_than_one_generation_deep():
    bases = bases_of(list(TREES.values()))
    deep = {name for name in bases if generations(name, bases) > 1}
    assert deep == set()


def test_no_private_name_is_used_outside_its_file():
    package = ROOT / "rarememory"
    found = {
        (path.relative_to(package).as_posix(), name)
        for path, tree in TREES.items()
        for name in private_uses(tree)
    }
    assert found == set()


def test_no_class_has_too_many_methods():
    counts = {node.name: len(methods(node)) for tree in TREES.values() for node in classes(tree)}
    assert {name: count for name, count in counts.items() if count > MAX_METHODS} == {}


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("def f(memory): return memory._keys", {"_keys"}),
        ("def f(self): return self.memory._keys", {"_keys"}),
        ("class A:\n def __init__(self): self._a = 1\n def f(self, other): return other._a", set()),
        ("class A:\n def f(self): return super()._load_from_state_dict()", set()),
        ("def f(x): return x.__class__, x._version", set()),
    ],
)
def test_a_private_use_is_seen(source, used):
    assert private_uses(ast.parse(source)) == used


def test_a_deep_class_is_seen():
    bases = bases_of([ast.parse("class A: ...\nclass B(A): ...\nclass C(x.B[int]): ...")])
    assert [generations(name, bases) for name in "ABC"] == [0, 1, 2]
