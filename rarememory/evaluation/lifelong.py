"""Lifelong learning: one memory, never cleared, and a stream that it answers and learns from."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import Recall
from rarememory.data.streams import Stream
from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.memory import Memory


@torch.no_grad()
def lifelong_accuracy(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    stream: Stream,
    *,
    vote: bool = False,
    bar: Bar = iter,
) -> list[Accuracy]:
    """Accuracy at the 1st, 2nd, ... sighting of a class, by one memory that is never cleared.

    Each drawing of the stream is first answered, among all that the memory has ever been told,
    then written with its true label (the paper's lifelong setting: Kaiser et al. 2017, section 1).
    A class answers once at each sighting, so intervals are over classes.

    Args:
        memory: is empty when the stream begins, and is afterwards as it was before.
        embeddings: of every drawing of the classes.
        stream: such as `random_stream` or `alphabet_stream` draws.
        vote: answer with the value of the greatest weight over `memory.k` neighbours, at
            `memory.temperature`, not with that of the nearest key.
        bar: shows progress over the stream.

    Returns:
        As many as the class that is seen most often has sightings; at each, those classes count
        that are seen so often. It is 0 at the first: what was never shown cannot be known.

    Example:
        >>> import torch
        >>> from torch import Generator
        >>> from rarememory.data import draw_glyphs, random_stream
        >>> from rarememory.evaluation import embed
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(20, 5, size=14).images)
        >>> stream = random_stream(20, 5, generator=Generator().manual_seed(0))
        >>> found = lifelong_accuracy(Memory(key_dim=196, memory_size=100), embeddings, stream)
        >>> found[0].mean, found[1].mean < found[4].mean
        (0.0, True)
    """
    sightings, right = _sightings(stream.classes), []
    with memory.snapshot():
        memory.clear()
        for query, label in _queries(embeddings, stream, bar):
            recall = memory(query, k=memory.k if vote else 1)
            right.append(_answer(recall, vote) == label)
            memory.write(recall, label)
    hits = torch.stack(right).float().cpu()
    return [Accuracy.of(hits[sightings == n]) for n in range(int(sightings.max()) + 1)]


@torch.no_grad()
def lifelong_forgetting(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    stream: Stream,
    *,
    vote: bool = False,
    bar: Bar = iter,
) -> Accuracy:
    """How much of what was known of a class, when it was last shown, is lost at the stream's end.

    The last drawing of each class is held back from the stream. It is asked right after the class
    was written for the last time, and again when the stream is over:

        forgetting = mean over classes of  right[at once] - right[at the end]

    This is the forgetting of Chaudhry et al. 2018, as `rarememory.integrations.torchmetrics` has
    it, with a class for a task, the stage in which it was learnt and the last one. It is in
    [-1, 1], negative where later writing helped; the interval is over classes. Arguments are as in
    `lifelong_accuracy`.

    Raises:
        ValueError: a class comes only once, so there would be nothing to forget.

    Example:
        >>> import torch
        >>> from torch import Generator
        >>> from rarememory.data import draw_glyphs, random_stream
        >>> from rarememory.evaluation import embed
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(20, 5, size=14).images)
        >>> stream = random_stream(20, 5, generator=Generator().manual_seed(0))
        >>> small, large = (
        ...     lifelong_forgetting(Memory(196, size), embeddings, stream) for size in (10, 100)
        ... )
        >>> large.mean < small.mean
        True
    """
    sightings = _sightings(stream.classes)
    last = torch.zeros(len(embeddings), dtype=torch.int64)
    last.scatter_reduce_(0, stream.classes, sightings, "amax")
    once = stream.classes[last[stream.classes] == 0]
    if len(once):
        raise ValueError(f"class {int(once[0])} comes once in the stream: show each at least twice")
    held = sightings == last[stream.classes]
    drawing = torch.zeros_like(last).scatter_(0, stream.classes[held], stream.drawings[held])
    seen = Stream(stream.classes[~held], stream.drawings[~held])
    latest = (sightings == last[stream.classes] - 1)[~held]
    at_once, labels = [], []
    with memory.snapshot():
        memory.clear()
        ends = zip(_queries(embeddings, seen, bar), seen.classes.tolist(), latest, strict=True)
        for (query, label), of, is_last in ends:
            memory.write(query, label)
            if is_last:
                labels.append(of)
                at_once.append(_right(memory, embeddings[of, drawing[of]], label, vote))
        at_end = [
            _right(memory, embeddings[of, drawing[of]], torch.tensor(of), vote) for of in labels
        ]
    return Accuracy.of((torch.stack(at_once).float() - torch.stack(at_end).float()).cpu())


def _queries(
    embeddings: Tensor, stream: Stream, bar: Bar
) -> Iterator[tuple[Float[Tensor, " key_dim"], Int64[Tensor, ""]]]:
    """What is shown and its label, one after the other."""
    labels = stream.classes.to(embeddings.device)
    for place in bar(range(len(labels))):
        yield embeddings[stream.classes[place], stream.drawings[place]], labels[place]


def _sightings(classes: Int64[Tensor, " shown"]) -> Int64[Tensor, " shown"]:
    """How often the class of each had come before."""
    by_class = classes.argsort(stable=True)
    counts = classes.bincount()
    places = torch.arange(len(classes)) - (counts.cumsum(0) - counts)[classes[by_class]]
    return torch.empty_like(classes).scatter_(0, by_class, places)


def _right(memory: Memory, query: Tensor, label: Tensor, vote: bool) -> Tensor:
    answer = _answer(memory(query, k=memory.k if vote else 1), vote)
    return answer == label.to(answer.device)


def _answer(recall: Recall, vote: bool) -> Int64[Tensor, ""]:
    """The value of the nearest, or of the greatest sum of weights, ties to the nearer."""
    if not vote:
        return recall.prediction
    same = recall.values.unsqueeze(-1) == recall.values.unsqueeze(-2)
    votes = (same * recall.weights.unsqueeze(-2)).sum(-1)
    return recall.values[votes.argmax(-1)]
