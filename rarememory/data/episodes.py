"""Episodes: which drawings of which classes to show, as indices into whatever holds them.

`characters.images[episode.classes, episode.drawings]` are its images, and the same two indices pick
from embeddings [classes, drawings, key_dim] that were computed once.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from rarememory.base.validation import check_count


class Episode(NamedTuple):
    """Which class, which of its drawings, and which label (0 to n_way - 1), in one shape.

    >>> episode = sighting_episode(1623, 20, n_way=5, n_sightings=11, generator=Generator())
    >>> episode.labels.shape
    torch.Size([11, 5])
    """

    classes: Int64[Tensor, "rows columns"]
    drawings: Int64[Tensor, "rows columns"]
    labels: Int64[Tensor, "rows columns"]


def sighting_episode(
    n_classes: int, n_drawings: int, *, n_way: int, n_sightings: int, generator: Generator
) -> Episode:
    """The paper's protocol, [n_sightings, n_way]: row r shows every class the (r + 1)-th time.

    The classes of a row come in random order, and every class is seen once before any is seen
    twice; no drawing is shown twice. A ValueError gives the numbers when there are too few
    classes or drawings. `generator` lives on the CPU.

    >>> episode = sighting_episode(100, 20, n_way=3, n_sightings=2, generator=Generator())
    >>> episode.labels.sort(dim=1).values.tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    classes = _choose_classes(n_classes, n_way, generator)
    return sightings_of(classes, n_drawings, n_sightings=n_sightings, generator=generator)


def sightings_of(
    classes: Int64[Tensor, " n_way"], n_drawings: int, *, n_sightings: int, generator: Generator
) -> Episode:
    """A `sighting_episode` of these classes: label w is that of classes[w].

    It is on the device of the classes; `generator` lives on the CPU.

    >>> classes = torch.tensor([7, 7, 9])
    >>> episode = sightings_of(classes, 20, n_sightings=2, generator=Generator())
    >>> bool((episode.classes == classes[episode.labels]).all())
    True
    """
    check_count("n_sightings", n_sightings)
    if n_sightings > n_drawings:
        raise ValueError(
            f"n_sightings is {n_sightings}, but a class has {n_drawings} drawings: ask for fewer"
        )
    n_way = len(classes)
    drawings = _choose_drawings(n_way, n_drawings, n_sightings, generator)
    labels = torch.rand(n_sightings, n_way, generator=generator).argsort(dim=1)
    drawings, labels = (
        chosen.to(classes.device, non_blocking=True) for chosen in (drawings, labels)
    )
    return Episode(classes[labels], drawings.T.gather(1, labels), labels)


def support_query_episode(
    n_classes: int, n_drawings: int, *, n_way: int, n_shot: int, n_query: int, generator: Generator
) -> tuple[Episode, Episode]:
    """The field's protocol: support [n_way, n_shot] and query [n_way, n_query], row w labelled w.

    No drawing of a class comes twice, neither within support or query nor between them. A
    ValueError gives the numbers when there are too few classes or drawings. `generator` lives
    on the CPU.

    >>> support, query = support_query_episode(
    ...     100, 20, n_way=2, n_shot=1, n_query=3, generator=Generator()
    ... )
    >>> query.labels.tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    check_count("n_shot", n_shot)
    check_count("n_query", n_query)
    if n_shot + n_query > n_drawings:
        raise ValueError(
            f"n_shot {n_shot} + n_query {n_query} = {n_shot + n_query}, "
            f"but a class has {n_drawings} drawings: ask for fewer"
        )
    classes = _choose_classes(n_classes, n_way, generator)
    drawings = _choose_drawings(n_way, n_drawings, n_shot + n_query, generator)
    return episode_of(classes, drawings[:, :n_shot]), episode_of(classes, drawings[:, n_shot:])


def episode_of(
    classes: Int64[Tensor, " n_way"], drawings: Int64[Tensor, "n_way columns"]
) -> Episode:
    """These drawings of these classes; row w is labelled w.

    >>> episode_of(torch.tensor([7, 9]), torch.tensor([[0, 3], [4, 1]])).classes
    tensor([[7, 7],
            [9, 9]])
    """
    columns = drawings.shape[1]
    labels = torch.arange(len(classes)).unsqueeze(1).repeat(1, columns)
    return Episode(classes.unsqueeze(1).repeat(1, columns), drawings.contiguous(), labels)


def _choose_classes(n_classes: int, n_way: int, generator: Generator) -> Int64[Tensor, " n_way"]:
    check_count("n_way", n_way)
    if n_way > n_classes:
        raise ValueError(
            f"n_way is {n_way}, but there are {n_classes} classes: ask for {n_classes} or fewer"
        )
    return torch.randperm(n_classes, generator=generator)[:n_way]


def _choose_drawings(
    n_way: int, n_drawings: int, n_chosen: int, generator: Generator
) -> Int64[Tensor, "n_way n_chosen"]:
    return torch.rand(n_way, n_drawings, generator=generator).argsort(dim=1)[:, :n_chosen]
