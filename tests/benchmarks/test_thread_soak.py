"""A few tries of the campaigns with threads find no fault, and wrong answers are seen."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.thread_soak import threads
from benchmarks.thread_soak.__main__ import main

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(("campaign", "tries"), [("threads", "4"), ("rows", "3")])
def test_a_few_tries_find_no_fault(campaign, tries, capsys):
    assert main([campaign, "--tries", tries]) == 0
    assert f"{campaign}: {tries} tries" in capsys.readouterr().out


def test_a_wrong_answer_is_seen(tmp_path):
    owners = threads.owners_of("torch", 0, tmp_path)
    owners[3].learn()
    (label,) = owners[3].taught
    owners[3].classifier.forget(label)
    with ThreadPoolExecutor(2) as pool, pytest.raises(threads.Wrong, match="examples of thread 3"):
        pool.submit(owners[3].list_examples).result()
