"""A few tries of the campaigns with threads find no fault, and wrong answers are seen."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from benchmarks.soak import rows, threads

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(("campaign", "tries"), [(threads.CAMPAIGN, 4), (rows.CAMPAIGN, 3)])
def test_a_few_tries_find_no_fault(campaign, tries, tmp_path):
    assert {*islice(campaign.tries(tmp_path, 0), tries)} <= campaign.right


def test_a_wrong_answer_is_seen(tmp_path):
    owners = threads.owners_of("torch", 0, tmp_path)
    owners[3].learn()
    (label,) = owners[3].taught
    owners[3].classifier.forget(label)
    with ThreadPoolExecutor(2) as pool, pytest.raises(threads.Wrong, match="examples of thread 3"):
        pool.submit(owners[3].list_examples).result()
