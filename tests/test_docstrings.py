"""Every public name has a docstring: a sentence, an example that runs, and its errors."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rarememory
from tests.sources import PRIVATE_PACKAGES

# Names whose example cannot be run, and why.
NOT_RUN = {
    "rarememory.data.omniglot.download_omniglot": "it would fetch Omniglot whenever tests run",
}

# What is asked about tensors of which nothing is known yet, not even their shapes.
UNSHAPED = {"why_not", "first"}


def public_modules() -> Iterator[str]:
    yield "rarememory"
    for found in pkgutil.walk_packages(rarememory.__path__, "rarememory."):
        integration = found.name.startswith("rarememory.integrations.")
        if (found.ispkg or integration) and found.name not in PRIVATE_PACKAGES:
            yield found.name


def offered(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions of a file, and in a package those of ours that it passes on."""
    passes_on = hasattr(module, "__path__")
    for name, thing in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        home = thing.__module__
        if home == module.__name__ or (passes_on and home.startswith("rarememory.")):
            yield name, thing


@cache
def public() -> dict[str, Any]:
    """Every public class and function by the name of where it is at home."""
    found = {}
    for name in public_modules():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            # An integration with a package that is not installed.
            assert name.startswith("rarememory.integrations."), error
            continue
        for _, thing in offered(module):
            found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def methods() -> dict[str, tuple[Any, str]]:
    """What a public class can do, its own words and those it has from a class of ours."""
    found = {}
    for thing in filter(inspect.isclass, public().values()):
        for ours in thing.__mro__:
            if not ours.__module__.startswith("rarememory"):
                continue
            for name, member in vars(ours).items():
                verb = inspect.isroutine(member) or isinstance(member, property)
                if verb and not name.startswith("_") and written(ours, name):
                    found[f"{ours.__module__}.{ours.__qualname__}.{name}"] = (ours, name)
    return found


def written(owner: type, name: str) -> bool:
    """Whether a method stands in the file, rather than being made by somebody's decorator."""
    node = node_of(owner.__module__, owner.__qualname__)
    return any(getattr(inner, "name", None) == name for inner in node.body)


@cache
def tree_of(module: str) -> ast.Module:
    file = inspect.getsourcefile(importlib.import_module(module))
    return ast.parse(Path(file or "").read_text("utf-8"))


def node_of(module: str, qualname: str) -> Any:
    """The source of a class or a function; a property or an overload is found by its last."""
    node: Any = tree_of(module)
    for part in qualname.split("."):
        node = [inner for inner in node.body if getattr(inner, "name", None) == part][-1]
    return node


def refusals(node: ast.AST) -> set[str]:
    """The exceptions that a body raises itself, or lets a check of ours raise."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            found.add(ast.unparse(inner.exc.func))
        if isinstance(inner, ast.Call) and re.match(
            r"(\w+\.)?_?check_?\w*$", ast.unparse(inner.func)
        ):
            found.add("ValueError")
    return found - {"NotImplementedError"}


def annotations(node: ast.AST) -> list[str]:
    """The types of what a function takes and gives, or of what a noun holds."""
    if isinstance(node, ast.ClassDef):
        noun = any(ast.unparse(base) == "NamedTuple" for base in node.bases)
        fields = [field for field in node.body if noun and isinstance(field, ast.AnnAssign)]
        return [ast.unparse(field.annotation) for field in fields]
    if not isinstance(node, ast.FunctionDef):
        return []
    given = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)]
    return [ast.unparse(note) for note in (*given, node.returns) if note is not None]


def body_of(thing: Any) -> ast.AST:
    """Where a public name may refuse: a function, or how a class comes to be."""
    node = node_of(thing.__module__, thing.__qualname__)
    if not isinstance(node, ast.ClassDef):
        return node
    births = [n for n in node.body if getattr(n, "name", "") in ("__init__", "__post_init__")]
    return ast.Module(births, [])


@pytest.mark.parametrize("name", public())
def test_a_public_name_says_what_it_is(name):
    thing = public()[name]
    said = ast.get_docstring(node_of(thing.__module__, thing.__qualname__))
    assert said, f"{name} has no docstring"
    assert said.partition("\n")[0].endswith((".", "?", ":")), f"{name} opens with no sentence"


@pytest.mark.parametrize("name", public())
def test_a_public_name_has_an_example_that_runs_and_shows_something(name):
    examples = doctest.DocTestParser().get_examples(public()[name].__doc__ or "")
    assert examples, f"{name} has no example"
    skipped = any(doctest.SKIP in example.options for example in examples)
    assert skipped == (name in NOT_RUN), f"{name}: its example is run, or excused in NOT_RUN"
    assert skipped or any(example.want for example in examples), f"{name} shows nothing"


@pytest.mark.parametrize("name", public())
def test_a_public_name_says_what_it_refuses(name):
    said = public()[name].__doc__ or ""
    unsaid = {error for error in refusals(body_of(public()[name])) if error not in said}
    assert not unsaid, f"{name} raises {unsaid}, and its docstring does not say so"


@pytest.mark.parametrize("name", [*public(), *methods()])
def test_a_public_signature_gives_shapes(name):
    """As in `Float[Tensor, "batch key_dim"]`: a shape that is a type is checked while tests run."""
    thing, method = methods().get(name) or (public()[name], "")
    node = node_of(thing.__module__, f"{thing.__qualname__}.{method}".rstrip("."))
    bare = [note for note in annotations(node) if re.search(r"\bTensor\b(?!, ')", note)]
    assert method in UNSHAPED or not bare, f"{name} takes or gives {bare} of no shape"


@pytest.mark.parametrize("name", methods())
def test_a_method_says_what_it_does_and_what_it_refuses(name):
    owner, method = methods()[name]
    node = node_of(owner.__module__, f"{owner.__qualname__}.{method}")
    # A method that does what the same one of its base says needs no words of its own.
    said = inspect.getdoc(getattr(owner, method))
    assert said, f"{name} has no docstring"
    unsaid = {error for error in refusals(node) if error not in said}
    assert not unsaid, f"{name} raises {unsaid}, and its docstring does not say so"
