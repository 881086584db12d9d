"""`rarememory omniglot`: evaluate an encoder by the paper's benchmark, without training."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rarememory.backbones import omniglot_encoder, stored_encoder, unseen_characters
from rarememory.base.progress import progress_bar
from rarememory.commands.output import AsJson, errors_as_text, print_text
from rarememory.data import Characters, Omniglot, download_omniglot, read_omniglot, split_called
from rarememory.evaluation import Bar, FewShotAccuracies, embed, few_shot_accuracies
from rarememory.variants.attention import HUBNESS_CORRECTION, class_attention


def omniglot(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with Omniglot's zips. [downloaded into data/]"),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="Weights of an encoder, in safetensors. [the shipped one]"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="hashed, folders, or a folder of lists. [what the shipped one never saw]"
        ),
    ] = None,
    way: Annotated[
        list[int] | None, typer.Option(help="Classes of an episode; may be repeated. [5 and 20]")
    ] = None,
    shot: Annotated[
        list[int] | None, typer.Option(help="Drawings of each; may be repeated. [1 and 5]")
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="Of each kind.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Test an encoder by the paper's protocol (by sighting) and the field's (support and query).

    Every character is four classes, one for each rotation by 90 degrees. By sighting, the nearest
    key answers; with a support set, all its drawings are kept and class attention answers. With
    --episodes 2000 the shipped encoder gives the numbers of README.
    """
    with errors_as_text():
        model = omniglot_encoder() if encoder is None else stored_encoder(encoder)
        characters = _characters(data, split, model.size, progress=not as_json)
        found = few_shot_accuracies(
            embed(model, characters.images),
            ways=way or (5, 20),
            shots=shot or (1, 5),
            n_episodes=episodes,
            attention=partial(class_attention, hubness_correction=HUBNESS_CORRECTION),
            seed=seed,
            bar=partial(_bar, show=False if as_json else None),
        )
    if as_json:
        facts = {"classes": len(characters), "episodes": episodes, "seed": seed}
        print(json.dumps({**facts, "accuracy": _as_json(found)}))
        return
    Console().print(_table(found))
    print_text(f"accuracy in % with 95 % intervals, {episodes} episodes, {len(characters)} classes")


def _characters(data: Path | None, split: str | None, size: int, progress: bool) -> Characters:
    """The test characters, each with its rotations as further classes."""
    whole = read_omniglot(data or download_omniglot("data"), size, progress=progress)
    try:
        if split is None:
            return whole.characters.select(unseen_characters()).rotated()
        turned = Omniglot(*(part.rotated() for part in whole))
        return turned.characters.select(split_called(split, turned)[1].test)
    except KeyError as error:
        # Python shows the text of a KeyError in quotes.
        raise ValueError(error.args[0]) from None


def _as_json(found: FewShotAccuracies) -> list[dict[str, Any]]:
    return [
        {
            "way": way,
            "shot": shot,
            "sighting": found.sighting[way][shot]._asdict(),
            "support_query": accuracy._asdict(),
        }
        for (way, shot), accuracy in found.support.items()
    ]


def _table(found: FewShotAccuracies) -> Table:
    table = Table("", "by sighting", "support/query")
    for (way, shot), accuracy in found.support.items():
        table.add_row(f"{way}-way {shot}-shot", str(found.sighting[way][shot]), str(accuracy))
    return table


def _bar(name: str, unit: str, show: bool | None) -> Bar:
    return partial(progress_bar, description=name, unit=unit, show=show)
