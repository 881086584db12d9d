"""`rarememory babi`: train a memory network on bAbI and test it, beside the published errors."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from rarememory.base.files import write_atomically
from rarememory.base.progress import progress_bar
from rarememory.commands.output import AsJson, errors_as_text, print_text
from rarememory.data.babi import BabiTask, read_babi
from rarememory.readers.babi import Outcome, Setup, train_babi
from rarememory.readers.published import PUBLISHED, Published
from rarememory.readers.stored import save_reader
from rarememory.readers.training import Epoch


def babi(
    data: Annotated[
        Path, typer.Option(help="bAbI's archive, its folder, or a folder with its archives.")
    ],
    task: Annotated[
        list[int] | None, typer.Option(help="Number of a task; may be repeated. [all]")
    ] = None,
    joint: Annotated[bool, typer.Option(help="Train one reader on all tasks together.")] = False,
    size: Annotated[str, typer.Option(help="en or en-10k: training questions per task.")] = "en",
    hops: Annotated[int, typer.Option(min=1)] = 3,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Width of the embeddings. [20; with --joint 50]")
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(min=1, help="The best on the training set is kept. [10; with --joint 1]"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="After the linear start. [100; with --joint 60]")
    ] = None,
    solved: Annotated[
        int,
        typer.Option(min=0, help="Stop after so many epochs without a training error; 0: never."),
    ] = 0,
    tying: Annotated[str, typer.Option(help="adjacent or layer-wise.")] = "adjacent",
    encoding: Annotated[str, typer.Option(help="position or bag.")] = "position",
    nonlinear: Annotated[bool, typer.Option(help="ReLU after each hop.")] = False,
    linear_start: Annotated[bool, typer.Option(help="Begin without softmax.")] = True,
    noise: Annotated[float, typer.Option(min=0, help="Empty memories among the sentences.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints and results.")] = Path("runs"),
    save: Annotated[
        Path | None, typer.Option(help="File for the trained reader, with --joint or one task.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train End-To-End Memory Networks on bAbI; print the test error of each task.

    After Ctrl-C the same command goes on from its checkpoints.
    """
    with errors_as_text():
        # The matrices are too small for several threads.
        torch.set_num_threads(1)
        tasks = read_babi(data, size, task or None)
        if save is not None and not joint and len(tasks) > 1:
            raise ValueError(f"--save keeps one reader, and {len(tasks)} are trained: add --joint")
        made = Setup.joint if joint else Setup.per_task
        given: dict[str, Any] = {"dim": dim, "restarts": restarts}
        setup = made(
            hops=hops,
            tying=tying,
            encoding=encoding,
            nonlinear=nonlinear,
            **{name: value for name, value in given.items() if value is not None},
        )
        changes: dict[str, Any] = {"noise": noise, "seed": seed, "solved_epochs": solved}
        if epochs is not None:
            changes |= {"epochs": epochs, "halve_every": max(1, epochs // 4)}
        if not linear_start:
            changes["linear_epochs"] = 0
        setup = replace(setup, recipe=replace(setup.recipe, **changes))
        groups = [list(tasks)] if joint else [[one] for one in tasks]
        outcomes = [_trained(group, setup, size, runs, show=not as_json) for group in groups]
        if save is not None:
            save_reader(save, outcomes[0].reader, outcomes[0].vocabulary)
    report = _report(outcomes, setup, size)
    if as_json:
        print(json.dumps(report))
        return
    kind = "nonlinear" if nonlinear else "joint" if joint else "per task"
    _print(outcomes, tasks, PUBLISHED.get((kind, size)))
    if save is not None:
        print_text(f"wrote {save}")


def _trained(tasks: Sequence[BabiTask], setup: Setup, size: str, runs: Path, show: bool) -> Outcome:
    """Train, with a progress bar and a checkpoint; write the outcome beside that."""
    which = f"task{tasks[0].number}" if len(tasks) == 1 else "joint"
    parts = [size, which, f"{setup.hops}hops", f"d{setup.dim}", f"x{setup.restarts}"]
    parts += ["relu"] * setup.nonlinear + [setup.tying] * (setup.tying != "adjacent")
    parts += [setup.encoding] * (setup.encoding != "position")
    parts += ["softmax"] * (setup.recipe.linear_epochs == 0)
    parts += ["silent"] * (setup.recipe.noise == 0)
    stem = runs / f"babi_{'_'.join(parts)}_seed{setup.recipe.seed}"
    most = setup.recipe.epochs + int(setup.recipe.linear_epochs)
    shown = None if show else False
    with progress_bar(total=most, description=which, unit="epoch", show=shown) as bar:
        seen = 0

        def watch(epoch: Epoch) -> None:
            nonlocal seen
            # A resumed training begins with a later epoch.
            bar.update(epoch.number - seen)
            seen = epoch.number
            bar.set_postfix(error=f"{100 * epoch.error.min():.1f} %")

        outcome = train_babi(tasks, setup, checkpoint=stem.with_suffix(".pt"), watch=watch)
    text = json.dumps(_report([outcome], setup, size), indent=2)
    write_atomically(stem.with_suffix(".json"), lambda draft: draft.write_text(text + "\n"))
    return outcome


def _report(outcomes: Sequence[Outcome], setup: Setup, size: str) -> dict[str, Any]:
    errors = {number: error for one in outcomes for number, error in one.errors.items()}
    return {
        "size": size,
        "setup": asdict(setup),
        "mean_error": round(sum(errors.values()) / len(errors), 3),
        "failed": sum(one.failed for one in outcomes),
        "tasks": len(errors),
        "errors": errors,
        "chosen_by": "training error, then training loss",
        "seconds": round(sum(one.seconds for one in outcomes), 1),
        "trainings": [
            {
                "tasks": sorted(one.errors),
                "restarts": one.restarts,
                "chosen": one.chosen,
                "epochs": one.epochs,
                "seconds": round(one.seconds, 1),
            }
            for one in outcomes
        ],
    }


def _print(
    outcomes: Sequence[Outcome], tasks: Sequence[BabiTask], published: Published | None
) -> None:
    errors = {number: error for one in outcomes for number, error in one.errors.items()}
    table = Table("task", "", "test error in %", "published")
    known = published.errors if published is not None else ()
    for task in tasks:
        beside = f"{known[task.number - 1]:.1f}" if known else ""
        table.add_row(str(task.number), task.name, f"{errors[task.number]:.1f}", beside)
    failed = sum(one.failed for one in outcomes)
    mean = sum(errors.values()) / len(errors)
    beside = f"{published.mean} ({published.failed} failed)" if published is not None else ""
    table.add_section()
    table.add_row("", f"mean of {len(errors)} tasks", f"{mean:.2f} ({failed} failed)", beside)
    Console().print(table)
    restarts = len(outcomes[0].restarts)
    seconds = sum(one.seconds for one in outcomes)
    print_text(
        f"{restarts} restarts each, chosen by training error; trained for {seconds:.0f} s; every "
        "test question is answered"
    )
