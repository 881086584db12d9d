"""A few tries of every campaign of the soak, and that a fault of each kind is seen."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice

import pytest

from benchmarks.cache import CellCache
from benchmarks.soak import models, page, ranks
from benchmarks.soak.campaign import Campaign
from benchmarks.soak.parts import watched_parts
from benchmarks.soak.watching import watched
from tests.sources import ROOT

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="campaigns fork and kill, as POSIX can"),
    # Python warns of it since 3.12; the forked processes here only count.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def test_a_few_tries_of_the_campaigns_of_files_find_no_fault(tmp_path):
    # Of the page's time a busy machine decides; the others have tests of their own.
    names = ["kills", "loads", "damaged"]
    options = ["--tries", "24", "--minutes", "5", "--campaigns", *names]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    written = {path.stem for path in (tmp_path / "runs").iterdir()}
    assert written == {f"soak_{name}" for name in names}


def test_the_page_answers_under_hostile_requests_and_slow_connections(tmp_path, monkeypatch):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    monkeypatch.setattr(page, "SECONDS", 60.0)
    monkeypatch.setattr(page, "SLOW", 50)
    assert {*islice(page.CAMPAIGN.tries(tmp_path, 0), 24)} == {"answered"}


def test_threads_that_ask_one_model_get_their_own_features():
    counts = watched(models.CAMPAIGN._replace(patience=120.0), 300.0, 400, 0)
    assert counts.outcomes == {"right": 400}, counts.faults


def test_two_processes_refuse_misuses_alike():
    counts = watched(ranks.CAMPAIGN._replace(patience=120.0), 300.0, 40, 0)
    # A busy machine may take longer than the 5 seconds of the soak.
    assert {*counts.outcomes} - {"late"} == ranks.CAMPAIGN.right, counts.faults


def _right(folder, seed):
    while True:
        yield "right"


def _wrong_once(folder, seed):
    yield "right"
    yield "wrong: slot 7"
    yield from _right(folder, seed)


def _killed(folder, seed):
    yield "right"
    os.kill(os.getpid(), signal.SIGSEGV)


def _failing(folder, seed):
    yield "right"
    raise KeyError("kea")


def _silent(folder, seed):
    yield "right"
    time.sleep(60)


@pytest.mark.parametrize(
    ("tries", "outcomes", "fault"),
    [
        (_right, {"right": 5}, None),
        (_wrong_once, {"right": 4, "wrong": 1}, "wrong: slot 7"),
        (_killed, {"right": 1, "crash": 1}, "crash: exit code -11"),
        (_failing, {"right": 1, "error": 1}, "KeyError: 'kea'"),
        (_silent, {"right": 1, "hang": 1}, "hang"),
    ],
)
def test_every_kind_of_fault_is_counted(monkeypatch, tries, outcomes, fault):
    campaign = Campaign("birds", 5, frozenset({"right"}), tries, patience=0.5)
    monkeypatch.setattr("benchmarks.soak.watching.STARTING", 0.5)
    counts = watched(campaign, 30.0, 5, 0, method="fork")
    assert counts.outcomes == outcomes
    assert (fault is None and counts.faults == []) or fault in counts.faults[0]


def _part(name, tries):
    return Campaign(name, 3, frozenset({"right"}), tries)


def test_parts_that_have_ended_are_counted_and_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.soak.watching.STARTING", 0.5)
    cache = CellCache(tmp_path, "soak_birds", 0)
    parts = (_part("kea", _right), _part("kakapo", _wrong_once), _part("kiwi", _killed))
    campaign = Campaign("birds", 9, frozenset({"right"}), _right, 5.0, parts)
    counts = watched_parts(campaign, 30.0, 0, cache, 1, method="fork")
    assert counts.outcomes == {"right": 6, "wrong": 1, "crash": 1}
    assert [fault.partition(":")[0] for fault in counts.faults] == ["wrong", "crash"]
    # The part that crashed is run again, beside a new one.
    stored = (_part("kea", _killed), _part("kakapo", _killed))
    parts = (*stored, _part("kiwi", _right), _part("weka", _right))
    again = watched_parts(campaign._replace(parts=parts), 30.0, 0, cache, 2, method="fork")
    assert again.outcomes == {"right": 11, "wrong": 1} and len(again.faults) == 1
    nothing = watched_parts(campaign, 0.0, 0, CellCache(tmp_path, "other"), 2)
    assert nothing == (Counter(), [], 0.0)


def test_a_campaign_ends_with_its_time(monkeypatch):
    campaign = Campaign("birds", 5, frozenset({"right"}), _right)
    counts = watched(campaign, 0.2, None, 0, method="fork")
    # On a machine that does something else too there may be time for one.
    assert counts.tries >= 1 and counts.seconds < 5
