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
from rarememory.data.babi import N_TASKS, BabiTask, read_babi
from rarememory.readers.babi import FAILED, Outcome, Setup, train_babi
from rarememory.readers.memnn_training import SupportedRecipe
from rarememory.readers.published import PUBLISHED, Published
from rarememory.readers.stored import save_reader
from rarememory.readers.supported_babi import N_GRAMS, SupportedOutcome, train_supported_babi
from rarememory.readers.training import Epoch


def babi(
    data: Annotated[
        Path, typer.Option(help="bAbI's archive, its folder, or a folder with its archives.")
    ],
    model: Annotated[
        str, typer.Option(help="memn2n, or memnn, which is trained with supporting sentences.")
    ] = "memn2n",
    task: Annotated[
        list[int] | None, typer.Option(help="Number of a task; may be repeated. [all]")
    ] = None,
    joint: Annotated[bool, typer.Option(help="Train one reader on all tasks together.")] = False,
    size: Annotated[str, typer.Option(help="en or en-10k: training questions per task.")] = "en",
    hops: Annotated[int, typer.Option(min=1, help="Of memn2n.")] = 3,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Width. [memn2n 20, with --joint 50; memnn 50]")
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(min=1, help="The best on the training set is kept. [10; with --joint 1]"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="[memn2n 100, with --joint 60, after the start; memnn 40]"),
    ] = None,
    solved: Annotated[
        int,
        typer.Option(min=0, help="Stop after so many epochs without a training error; 0: never."),
    ] = 0,
    tying: Annotated[str, typer.Option(help="adjacent or layer-wise.")] = "adjacent",
    encoding: Annotated[str, typer.Option(help="position or bag.")] = "position",
    nonlinear: Annotated[bool, typer.Option(help="ReLU after each hop.")] = False,
    linear_start: Annotated[bool, typer.Option(help="Begin without softmax.")] = True,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="End the linear start after so many epochs without a lower loss on a tenth of the "
            "questions, left out. [after 20 epochs, with --joint 30]",
        ),
    ] = None,
    noise: Annotated[float, typer.Option(min=0, help="Empty memories among the sentences.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints and results.")] = Path("runs"),
    save: Annotated[
        Path | None, typer.Option(help="File for the trained memn2n, with --joint or one task.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train memory networks on bAbI; print the test error of each task beside the published ones.

    After Ctrl-C the same command goes on from its checkpoints.
    """
    with errors_as_text():
        # The matrices are too small for several threads.
        torch.set_num_threads(1)
        tasks = read_babi(data, size, task or None)
        if model == "memnn":
            given = {
                "--joint": joint,
                "--save": save,
                "--restarts": restarts,
                "--patience": patience,
            }
            for option, value in given.items():
                if value:
                    raise ValueError(f"{option} is of memn2n, and not of memnn")
            recipe = SupportedRecipe(epochs=epochs or SupportedRecipe.epochs, seed=seed)
            report = supported_report(tasks, recipe, size, runs, dim or 50, show=not as_json)
            stem, published = f"babi_{size}_memnn", PUBLISHED.get(("memnn", size))
        elif model == "memn2n":
            if save is not None and not joint and len(tasks) > 1:
                raise ValueError(
                    f"--save keeps one reader, and {len(tasks)} are trained: add --joint"
                )
            changes: dict[str, Any] = {"noise": noise, "seed": seed, "solved_epochs": solved}
            if epochs is not None:
                changes |= {"epochs": epochs, "halve_every": max(1, epochs // 4)}
            if not linear_start:
                # The paper's learning rate without it.
                changes |= {"linear_epochs": 0, "learning_rate": 0.01}
            if patience is not None:
                changes |= {"patience": patience, "validation_part": 0.1}
            setup = (Setup.joint if joint else Setup.per_task)(
                hops=hops, tying=tying, encoding=encoding, nonlinear=nonlinear
            )
            setup = replace(
                setup,
                dim=dim or setup.dim,
                restarts=restarts or setup.restarts,
                recipe=replace(setup.recipe, **changes),
            )
            outcomes = trained(tasks, setup, size, runs, joint=joint, show=not as_json)
            report = reported(outcomes, setup, size)
            stem = _stem(tasks, setup, size, together="joint" if joint else "each")
            published = published_beside(setup, size, joint=joint)
            if save is not None:
                save_reader(save, outcomes[0].reader, outcomes[0].vocabulary)
        else:
            raise ValueError(f"the model is memn2n or memnn, not {model!r}")
        text = json.dumps(report)
        results = runs / f"{stem}.json"
        write_atomically(results, lambda path: path.write_text(f"{text}\n"), parents=True)
    if as_json:
        print(text)
        return
    _print(report, tasks, published)
    print_text(f"results: {results}")


def published_beside(setup: Setup, size: str, *, joint: bool) -> Published | None:
    """The published table of a training of this kind; None if there is none."""
    recipe = setup.recipe
    usual = setup.hops == 3 and setup.tying == "adjacent" and setup.encoding == "position"
    if not usual or not recipe.linear_epochs or not recipe.noise:
        return None
    kinds = {
        (True, 50, False): "joint",
        (False, 20, False): "per task",
        (False, 100, True): "nonlinear",
    }
    return PUBLISHED.get((kinds.get((joint, setup.dim, setup.nonlinear), ""), size))


def trained(
    tasks: Sequence[BabiTask], setup: Setup, size: str, runs: Path, *, joint: bool, show: bool
) -> list[Outcome]:
    """Train one reader on all tasks, or one on each, from the checkpoints that there are."""
    groups = [list(tasks)] if joint else [[one] for one in tasks]
    return [_trained(group, setup, runs / _stem(group, setup, size), show) for group in groups]


def _stem(tasks: Sequence[BabiTask], setup: Setup, size: str, together: str = "joint") -> str:
    """The name of a checkpoint or of results; what differs from the usual is in it."""
    which = f"task{tasks[0].number}" if len(tasks) == 1 else together
    parts = [size, which, f"{setup.hops}hops", f"d{setup.dim}", f"x{setup.restarts}"]
    parts += ["relu"] * setup.nonlinear + [setup.tying] * (setup.tying != "adjacent")
    parts += [setup.encoding] * (setup.encoding != "position")
    parts += ["softmax"] * (setup.recipe.linear_epochs == 0)
    parts += ["silent"] * (setup.recipe.noise == 0)
    return f"babi_{'_'.join(parts)}_seed{setup.recipe.seed}"


def _trained(tasks: Sequence[BabiTask], setup: Setup, stem: Path, show: bool) -> Outcome:
    """Train, with a progress bar and a checkpoint."""
    most = setup.recipe.epochs + int(setup.recipe.linear_epochs)
    which = ", ".join(str(one.number) for one in tasks)
    bar = progress_bar(
        total=most, description=f"task {which}", unit="epoch", show=None if show else False
    )
    with bar:
        seen = 0

        def watch(epoch: Epoch) -> None:
            nonlocal seen
            # A resumed training begins with a later epoch.
            bar.update(epoch.number - seen)
            seen = epoch.number
            bar.set_postfix(error=f"{100 * epoch.error.min():.1f} %")

        return train_babi(tasks, setup, checkpoint=stem.with_suffix(".pt"), watch=watch)


def supported_report(
    tasks: Sequence[BabiTask], recipe: SupportedRecipe, size: str, runs: Path, dim: int, show: bool
) -> dict[str, Any]:
    """Train a Memory Network on each task, and say how it answers."""
    outcomes = {
        task.number: _supported(
            task, recipe, dim, runs / f"babi_{size}_memnn_task{task.number}_d{dim}", show
        )
        for task in tasks
    }
    errors = {number: one.error for number, one in outcomes.items()}
    return {
        **_summary(errors),
        "model": "memnn",
        "size": size,
        "recipe": {**asdict(recipe), "dim": dim},
        "restarts": 1,
        "chosen_by": "n-grams by validation error, then fewer n-grams",
        "seconds": round(sum(one.seconds for one in outcomes.values()), 1),
        "trainings": [
            {
                "task": number,
                "n_grams": one.n_grams,
                "validation": one.validation,
                "wrong_support": one.unsupported,
                "seconds": round(one.seconds, 1),
            }
            for number, one in outcomes.items()
        ],
    }


def _supported(
    task: BabiTask, recipe: SupportedRecipe, dim: int, stem: Path, show: bool
) -> SupportedOutcome:
    """Train on one task, with a progress bar and checkpoints."""
    shown = None if show else False
    most = len(N_GRAMS) * recipe.epochs
    with progress_bar(
        total=most, description=f"task {task.number}", unit="epoch", show=shown
    ) as bar:

        def watch(epoch: int) -> None:
            bar.update()

        file = stem.with_name(f"{stem.name}_seed{recipe.seed}")
        return train_supported_babi(task, recipe, dim=dim, checkpoint=file, watch=watch)


def _summary(errors: dict[int, float]) -> dict[str, Any]:
    return {
        "mean_error": round(sum(errors.values()) / len(errors), 3),
        "failed": sum(error > FAILED for error in errors.values()),
        "tasks": len(errors),
        "errors": errors,
    }


def reported(outcomes: Sequence[Outcome], setup: Setup, size: str) -> dict[str, Any]:
    """What was trained, and how it answers."""
    errors = {number: error for one in outcomes for number, error in one.errors.items()}
    return {
        **_summary(errors),
        "model": "memn2n",
        "size": size,
        "setup": asdict(setup),
        "restarts": setup.restarts,
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


def _print(report: dict[str, Any], tasks: Sequence[BabiTask], published: Published | None) -> None:
    table = Table("task", "", "test error in %", "published")
    known = published.errors if published is not None else ()
    for task in tasks:
        beside = f"{known[task.number - 1]:.1f}" if known else ""
        table.add_row(str(task.number), task.name, f"{report['errors'][task.number]:.1f}", beside)
    # A mean of other tasks could not be compared.
    whole = published is not None and len(tasks) == N_TASKS
    beside = f"{published.mean} ({published.failed} failed)" if published and whole else ""
    table.add_section()
    mean, failed = report["mean_error"], report["failed"]
    table.add_row("", f"mean of {len(tasks)} tasks", f"{mean:.2f} ({failed} failed)", beside)
    Console().print(table)
    print_text(
        f"{report['restarts']} restarts each, chosen by {report['chosen_by']}; trained for "
        f"{report['seconds']:.0f} s; every test question is answered"
    )
