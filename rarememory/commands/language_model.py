"""`rarememory lm`: train a memory network on the words of a text file."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from rarememory.base.progress import progress_bar
from rarememory.commands.output import AsJson, errors_as_text, print_text
from rarememory.readers.language_model import train_language_model


def language_model(
    text: Annotated[Path, typer.Argument(help="A text file: words between spaces.")],
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    memory_size: Annotated[int, typer.Option(min=1, help="Words before the predicted one.")] = 50,
    hops: Annotated[int, typer.Option(min=1)] = 3,
    dim: Annotated[int, typer.Option(min=1, help="Width of the embeddings.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of the first epoch.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the language model of End-To-End Memory Networks; test it on the last tenth.

    The published model for the Penn Treebank has --hops 6 --dim 150 --memory-size 100.
    """
    with errors_as_text():
        torch.set_num_threads(1)
        shown = False if as_json else None
        with progress_bar(total=epochs, description="training", unit="epoch", show=shown) as bar:

            def watch(epoch: int, perplexity: float) -> None:
                bar.update()
                bar.set_postfix(perplexity=f"{perplexity:.1f}")

            _, found = train_language_model(
                text.read_text(encoding="utf-8"),
                epochs=epochs,
                memory_size=memory_size,
                hops=hops,
                dim=dim,
                learning_rate=learning_rate,
                seed=seed,
                watch=watch,
            )
    if as_json:
        facts = {"words": len(found.words), "train": found.train, "validation": found.validation}
        print(json.dumps(facts))
        return
    for epoch, (train, validation) in enumerate(zip(found.train, found.validation, strict=True), 1):
        print_text(f"epoch {epoch}: perplexity {train:.1f} in training, {validation:.1f} after it")
