"""Runs one of the campaigns and prints how many tries had each outcome.

    python -m benchmarks.thread_soak threads --minutes 60
    python -m benchmarks.thread_soak rows --tries 1000
    python -m benchmarks.thread_soak sanitizers --minutes 10

The exit status is 1 if an outcome is wrong. A crash ends the program itself.
"""

import argparse
import sys
import time
from collections import Counter
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.thread_soak.campaign import Campaign


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; the exit status."""
    parser = argparse.ArgumentParser("benchmarks.thread_soak", description=__doc__)
    parser.add_argument("campaign", choices=("threads", "rows", "sanitizers"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--tries", type=int, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    campaign: Campaign = import_module(f"benchmarks.thread_soak.{options.campaign}").CAMPAIGN
    torch.set_num_threads(1)
    end, counts, wrong = time.monotonic() + 60 * options.minutes, Counter[str](), list[str]()
    with TemporaryDirectory() as folder:
        for outcome in islice(campaign.tries(Path(folder), options.seed), options.tries):
            word = outcome.partition(":")[0]
            counts[word] += 1
            if word not in campaign.right:
                wrong.append(outcome)
                print(outcome, flush=True)
            if time.monotonic() > end:
                break
    print(f"{campaign.name}: {counts.total():,} tries of a goal of {campaign.goal:,}")
    for word, count in counts.most_common():
        print(f"{word:>16} {count:,}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
