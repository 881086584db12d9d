"""A few tries of the campaigns with threads find no fault, and wrong answers are seen."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from benchmarks.soak import rows, threads

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(("campaign", "tries"), [(threads.CAMPAIGN, 4), (rows.CAMPAIGN, 3)])
def test_a_few_tries_find_no_fault(campaign, tries, tmp_path):
    assert {*islice(campaign.tries(tmp_path, 0), tries)} <= campaign.right


def test_the_parts_of_the_threads_are_as_many_rounds_as_the_goal(tmp_path):
    parts = threads.CAMPAIGN.parts
    assert sum(part.goal for part in parts) == threads.CAMPAIGN.goal
    assert len({part.name for part in parts}) == len(parts)
    assert {*islice(parts[1].tries(tmp_path, 0), 1)} == parts[1].right == {"torch"}


def test_a_history_goes_on_after_a_fault(tmp_path, monkeypatch):
    faults = iter([threads.Wrong("slot 7"), KeyError("kea")])

    def one_round(pool, owners):
        for fault in faults:
            raise fault

    monkeypatch.setattr(threads, "one_round", one_round)
    found = [*threads.CAMPAIGN.parts[0].tries(tmp_path, 0)]
    assert len(found) == threads.ROUNDS
    assert [one.partition(":")[0] for one in found[:3]] == ["wrong", "exception", "native"]


def test_a_wrong_answer_is_seen(tmp_path):
    owners = threads.owners_of("torch", 0, tmp_path)
    owners[3].learn()
    (label,) = owners[3].taught
    owners[3].classifier.forget(label)
    with ThreadPoolExecutor(2) as pool, pytest.raises(threads.Wrong, match="examples of thread 3"):
        pool.submit(owners[3].list_examples).result()
