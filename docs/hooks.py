"""What `make docs` does beside MkDocs: runs the notebooks, adds the pictures of the results."""

import logging
import time
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter
from traitlets.config import Config

RESULTS = "benchmarks/results"
logger = logging.getLogger("mkdocs.hooks.notebooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of the results, which lie outside the folder of the pages."""
    root = Path(config.config_file_path).parent
    for picture in sorted((root / RESULTS).glob("*.png")):
        files.append(
            File.generated(config, f"results/{picture.name}", content=picture.read_bytes())
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Point to those pictures where the site has them; run a page that is a notebook."""
    if page.file.src_uri.startswith("notebooks/"):
        markdown = executed(markdown, page.file.src_uri, Path(config.config_file_path).parent)
    return markdown.replace(f"../{RESULTS}/", "results/")


def executed(markdown: str, name: str, root: Path) -> str:
    """A notebook in Markdown with the output of every cell below it; a cell that fails is an error.

    Raises:
        PluginError: a cell raised; the message is its traceback.
    """
    started = time.monotonic()
    notebook = jupytext.reads(markdown, fmt="md")
    # Without ports: nothing else on the machine can reach the kernel.
    config = Config({"ConnectionFileMixin": {"transport": "ipc"}})
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=120, coalesce_streams=True, config=config
    )
    try:
        client.execute(cwd=str(root))
    except CellExecutionError as error:
        raise PluginError(f"{name}: {error}") from None
    # Pictures stay inside the page, as data.
    inside = Config({"ExtractOutputPreprocessor": {"enabled": False}})
    body, _ = MarkdownExporter(config=inside).from_notebook_node(notebook)
    logger.info("ran %s in %.0f s", name, time.monotonic() - started)
    return str(body)
