"""Tries for half an hour to break a memory, and counts what comes of it.

    python -m benchmarks.soak                      every campaign, each for its share of 30 minutes
    python -m benchmarks.soak --minutes 300        longer
    python -m benchmarks.soak --campaigns kills    one of them
    python -m benchmarks.soak --minutes 600 --goal each until its goal, and no longer
    python -m benchmarks.soak --campaigns threads --goal --workers 2
                                                   two histories side by side; those that have ended
                                                   are kept in runs/: the same command resumes
    python -m benchmarks.soak --tries 20           a few tries each, as the tests do

The exit status is 1 if any try had an outcome that breaks a promise of docs/promises.md. A result
is published for each campaign that reached its goal.
"""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from tqdm import tqdm

from benchmarks import results
from benchmarks.cache import CellCache
from benchmarks.runner import Benchmark, Run, print_table
from benchmarks.soak.campaign import Campaign
from benchmarks.soak.parts import watched_parts
from benchmarks.soak.watching import Counts, Show, watched

CAMPAIGNS = (
    *("kills", "loads", "damaged", "page", "threads", "models", "ranks", "rows", "sanitizers"),
    *("store_sqlite", "store_postgresql"),
)
"""A file of this folder each, with its CAMPAIGN."""

command = Benchmark("benchmarks.soak", __doc__)
add = command.add
add("--minutes", decisive=False, type=float, default=30.0, help="for all campaigns together")
add("--campaigns", decisive=False, nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS))
add("--tries", type=int, help="at most, of each campaign; without it as many as there is time for")
add("--goal", decisive=False, action="store_true", help="end each campaign at its goal")
text = "processes of a campaign that has parts, with --goal"
add("--workers", decisive=False, type=int, default=1, help=text)
text = "times as long until a try counts as a hang; for a machine with other work"
add("--patience", decisive=False, type=float, default=1.0, help=text)
add("--seed", type=int, default=0, help="of what is tried")


@command
def main(run: Run) -> None:
    """Run the campaigns, print the table of counts, and write the results."""
    options = run.options
    found: dict[str, Counts] = {}
    for name in options.campaigns:
        share = 60 * options.minutes / len(options.campaigns)
        chosen = campaign(name)
        with tqdm(desc=name, unit="try", leave=False, disable=None) as progress:
            counts = _counted(chosen, share, options, partial(_show, progress))
        found[name] = counts
        if counts.tries >= chosen.goal or not run.published:
            goal = " --goal" if options.goal else ""
            minutes = f"--minutes {options.minutes:g}{goal}"
            run.command = f"python -m {command.module} --campaigns {name} {minutes}"
            run.write(f"soak_{name}", _figures(name, counts), process_seconds=round(counts.seconds))
    print_table(("campaign", "tries", "goal", "minutes", "outcomes"), _rows(found), "soak")
    wrong = {name: counts.faults for name, counts in found.items() if counts.faults}
    if wrong:
        raise RuntimeError("\n".join(f"{name}: {one}" for name in wrong for one in wrong[name]))


def _counted(chosen: Campaign, seconds: float, options: Namespace, show: Show) -> Counts:
    """What came of the campaign in so many seconds, of its parts if it is to end at its goal."""
    chosen = chosen._replace(patience=options.patience * chosen.patience)
    if not options.goal or not chosen.parts:
        tries = chosen.goal if options.goal else options.tries
        return watched(chosen, seconds, tries, options.seed, show)
    cache = CellCache(results.RUNS, f"soak_{chosen.name}", results.device(), options.seed)
    return watched_parts(chosen, seconds, options.seed, cache, options.workers, show)


def _show(progress: Any, outcomes: Counter[str]) -> None:
    progress.set_postfix(outcomes, refresh=False)
    progress.update()


def campaign(name: str) -> Campaign:
    """The campaign of this name."""
    found: Campaign = import_module(f"benchmarks.soak.{name}").CAMPAIGN
    return found


def _rows(found: Mapping[str, Counts]) -> list[tuple[object, ...]]:
    return [
        (
            name,
            f"{counts.tries:,}",
            f"{campaign(name).goal:,}",
            f"{counts.seconds / 60:.1f}",
            ", ".join(f"{word} {count:,}" for word, count in counts.outcomes.most_common()),
        )
        for name, counts in found.items()
    ]


def _figures(name: str, counts: Counts) -> dict[str, float]:
    """How many tries had each outcome, and how many are faults."""
    right = campaign(name).right
    words = {word: counts.outcomes[word] for word in {*right, *counts.outcomes}}
    faults = sum(count for word, count in words.items() if word not in right)
    return {
        f"soak.{name}.tries": counts.tries,
        f"soak.{name}.faults": faults,
        **{f"soak.{name}.{word}": count for word, count in words.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
