"""What the tests of whole benchmarks share: folders of their own, and the result file."""

import json
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks import results
from rarememory.backbones import BACKBONES, Conv4


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Runs in a temporary folder; `published` stands for benchmarks/results.

    `result(name)` reads a result that was not published; `percentages(name, keys)` also checks that
    these keys and their intervals are its figures, all from 0 to 100.
    """
    published = tmp_path / "published"
    published.mkdir()
    monkeypatch.setattr(results, "RESULTS", published)
    monkeypatch.chdir(tmp_path)

    def result(name):
        assert not list(published.iterdir())
        text = (tmp_path / "runs" / f"{name}.json").read_text()
        assert str(tmp_path) not in text
        return json.loads(text)

    def percentages(name, keys):
        figures = result(name)["figures"]
        assert set(figures) == keys | {f"{key}.interval" for key in keys}
        assert all(0 <= figures[key] <= 100 for key in keys)
        return figures

    return SimpleNamespace(
        runs=tmp_path / "runs", published=published, result=result, percentages=percentages
    )


@pytest.fixture
def narrow(monkeypatch):
    """The backbone conv4 with a few channels, which computes in a fraction of the time."""
    monkeypatch.setitem(BACKBONES, "conv4", partial(Conv4, width=4))
    return BACKBONES["conv4"]
