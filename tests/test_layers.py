"""The folder is the architecture: imports point down, and heavy packages stay outside."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import PRODUCT, ROOT, python_files

# What each folder of the package may import of the others; a new one gets its row here. The rows
# are in order: a folder imports only those above its own row.
CORE = {"base", "native", "lookup", "memory"}
MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "native": {"base"},
    "data": {"base"},
    "lookup": {"base", "native"},
    "memory": {"base", "native", "lookup"},
    "distributed": {"base", "lookup", "memory"},
    "variants": CORE,
    "readers": CORE | {"data"},
    "backbones": {"base"},
    "evaluation": {"base", "data", "memory", "variants"},
    "training": {"base", "data", "memory"},
    "classifier": CORE | {"variants", "backbones"},
    "integrations": CORE | {"data", "evaluation", "classifier"},
    "store": {"base", "memory", "classifier"},
    "play": {"data", "backbones", "memory", "classifier"},
    "serve": {"base", "classifier", "store", "play"},
    "commands": (
        CORE
        | {"data", "variants", "readers", "backbones", "evaluation", "training", "classifier"}
        | {"integrations", "play", "store", "serve"}
    ),
    "__main__": {"commands"},
    "__init__": CORE | {"variants", "classifier"},
}

# Inside lookup/ each file may import those before it. Any other file there is an engine: it may
# import all of these and no other engine. A file named after an engine, such as triton_plan, is a
# part of it: the engine may import it, and so may its other parts. What chooses one may import them
# all.
LOOKUP = ("package", "exact", "pair", "base", "torch", "changes", "indexed")

ABOVE_ENGINES = ("__init__", "ops")

OUTSIDE = (
    "torchvision",
    "faiss",
    "triton",
    "sklearn",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "matplotlib",
    "PIL",
    "tqdm",
    "rich",
    "typer",
    "starlette",
    "uvicorn",
    "huggingface_hub",
    "pytorch_metric_learning",
    "learn2learn",
    "psycopg",
    "fastapi",
    "pydantic",
    "prometheus_client",
    "sqlite3",
    "pandas",
    "pyarrow",
)
MACHINE_PATH = re.compile(r"(?<!\w)/(?:work|tmp|home|root)/|\.\./shared")


def package_imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Dotted names inside the package that a file imports, at its top or in a function."""
    home = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [submodule_or(base, alias.name, root) for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in PRODUCT)


def submodule_or(base: str, name: str, root: Path) -> str:
    """`from a import b` means a.b when that is a file or a folder, and otherwise a."""
    inside = root.joinpath(*base.split("."), name)
    return f"{base}.{name}" if inside.with_suffix(".py").exists() or inside.is_dir() else base


def module_of(name: str) -> str:
    """The row of the table: rarememory.lookup.faiss -> lookup, rarememory -> __init__."""
    return [*name.split("."), "__init__"][1]


def row_of(path: Path, root: Path = ROOT) -> str:
    return path.relative_to(root).with_suffix("").parts[1]


def upward_imports(path: Path, root: Path = ROOT) -> list[str]:
    top, row = path.relative_to(root).parts[0], row_of(path, root)
    found = []
    for name in package_imports(path, root):
        if top != "rarememory":
            allowed = name.split(".")[0] in {"rarememory", top}
        elif row == "lookup" and name.startswith("rarememory.lookup"):
            before = LOOKUP[: LOOKUP.index(path.stem)] if path.stem in LOOKUP else LOOKUP
            imported = name.rpartition(".")[2]
            part = imported.startswith(path.stem.partition("_")[0] + "_")
            allowed = path.stem in ABOVE_ENGINES or imported in before or part
        else:
            own = {row} - {"__init__"}
            ours = name.split(".")[0] == "rarememory"
            allowed = ours and module_of(name) in MAY_IMPORT[row] | own
        if not allowed:
            found.append(name)
    return found


def test_every_module_of_the_package_has_its_row():
    found = {row_of(path) for path in python_files("rarememory")}
    assert found <= MAY_IMPORT.keys(), f"no row for {sorted(found - MAY_IMPORT.keys())}"


def test_no_row_of_the_table_points_up():
    rows = list(MAY_IMPORT)
    for row, below in MAY_IMPORT.items():
        assert below <= set(rows[: rows.index(row)]), f"{row} may import what stands below its row"


def test_few_files_lie_at_the_root_of_the_package():
    entries = [path for path in (ROOT / "rarememory").iterdir() if not path.name.startswith("__")]
    assert len([path for path in entries if path.is_file()]) <= 9


@pytest.mark.parametrize(
    "path", python_files(*PRODUCT), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_imports_point_down(path):
    assert upward_imports(path) == []


@pytest.mark.parametrize(
    ("file", "line", "upward"),
    [
        ("rarememory/base/state.py", "import rarememory", ["rarememory"]),
        ("rarememory/base/state.py", "from rarememory import memory", ["rarememory.memory"]),
        ("rarememory/base/state.py", "from ..memory import Memory", ["rarememory.memory"]),
        ("rarememory/memory/losses.py", "from rarememory.base.state import EMPTY", []),
        ("rarememory/memory/updates.py", "def f():\n    from . import losses", []),
        (
            "rarememory/lookup/ops.py",
            "def f():\n    from ..memory import losses",
            ["rarememory.memory.losses"],
        ),
        ("rarememory/memory/module.py", "from rarememory.lookup.faiss import Faiss", []),
        ("rarememory/memory/module.py", "import benchmarks.results", ["benchmarks.results"]),
        ("rarememory/data/omniglot.py", "from rarememory.data.episodes import Episode", []),
        ("rarememory/data/omniglot.py", "from ..lookup import A", ["rarememory.lookup"]),
        ("rarememory/readers/end_to_end.py", "from ..base.state import EMPTY", []),
        ("rarememory/lookup/faiss.py", "from .base import Lookup", []),
        ("rarememory/lookup/faiss.py", "from . import Lookup", ["rarememory.lookup"]),
        ("rarememory/lookup/faiss.py", "from .triton import go", ["rarememory.lookup.triton"]),
        ("rarememory/lookup/torch.py", "from .faiss import Faiss", ["rarememory.lookup.faiss"]),
        ("rarememory/lookup/triton.py", "from .triton_plan import Plan", []),
        ("rarememory/lookup/triton_topk.py", "from .triton_plan import Plan", []),
        (
            "rarememory/lookup/triton_plan.py",
            "from .triton import go",
            ["rarememory.lookup.triton"],
        ),
        (
            "rarememory/lookup/faiss.py",
            "from .triton_plan import Plan",
            ["rarememory.lookup.triton_plan"],
        ),
        ("rarememory/lookup/faiss.py", "import torch, faiss", []),
        ("rarememory/lookup/__init__.py", "from .torch import Torch", []),
        ("benchmarks/memory.py", "from rarememory import Memory", []),
        ("benchmarks/memory.py", "import examples.kea", ["examples.kea"]),
    ],
)
def test_an_upward_import_is_seen(tmp_path, file, line, upward):
    module = tmp_path / "rarememory" / "memory" / "losses.py"
    module.parent.mkdir(parents=True)
    module.touch()
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert upward_imports(path, tmp_path) == upward


def test_importing_the_package_brings_no_optional_package():
    code = (
        "import sys, torch; before = set(sys.modules); import rarememory;"
        f"print(*sorted((set(sys.modules) - before) & set({OUTSIDE})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_a_helper_lives_beside_its_user_and_not_in_utils():
    assert [path for path in python_files(*PRODUCT, "tests") if path.stem == "utils"] == []


def test_the_product_names_no_path_of_one_machine():
    texts = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob(".*.yaml"), ROOT / "Makefile"]
    for folder in PRODUCT:
        texts += [p for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".json", ".md"}]
    found = {
        path.relative_to(ROOT).as_posix(): mention[0]
        for path in texts
        if (mention := MACHINE_PATH.search(path.read_text(encoding="utf-8")))
    }
    assert found == {}
