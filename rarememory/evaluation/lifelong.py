"""Lifelong learning: one memory, never cleared, answers and then learns a stream of drawings."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

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

    Each drawing of the stream is first answered, among all classes written so far, then written
    with its true label (the paper's lifelong setting: Kaiser et al. 2017, section 1). A class is
    asked once at each sighting, so intervals are over classes.

    Args:
        memory: is empty when the stream begins, and is afterwards as it was before.
        embeddings: of every drawing of the classes.
        stream: such as `random_stream` or `alphabet_stream` draws.
        vote: answer with the value of the greatest weight over `memory.k` neighbours, at
            `memory.temperature`, not with that of the nearest key.
        bar: shows progress over the stream.

    Returns:
        One for each sighting of the class that is seen most often, over the classes that are seen
        so often. The first is 0, since no class is known before it was shown.

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
    sightings, correct = _sightings(stream.classes), []
    with memory.snapshot():
        memory.clear()
        for query, label in _queries(embeddings, stream, bar):
            correct.append(_is_correct(memory, query, label, vote))
            memory.write(query, label)
    hits = torch.stack(correct).float().cpu()
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
    """How much accuracy on a class is lost from its last write to the end of the stream.

    The last drawing of each class is held out of the stream. It is asked right after the class was
    written for the last time, and again at the end of the stream:

        forgetting = mean over classes of  correct[at once] - correct[at the end]

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
    remaining = stream.classes.bincount()[stream.classes] - 1 - sightings
    once = stream.classes[(remaining == 0) & (sightings == 0)]
    if len(once):
        raise ValueError(f"class {int(once[0])} comes once in the stream: show each at least twice")
    held, written = remaining == 0, Stream(*(part[remaining > 0] for part in stream))
    held_out = dict(zip(stream.classes[held].tolist(), stream.drawings[held].tolist(), strict=True))
    is_last = (remaining[remaining > 0] == 1).tolist()
    at_once, questions = [], []
    with memory.snapshot():
        memory.clear()
        for (query, label), last in zip(_queries(embeddings, written, bar), is_last, strict=True):
            memory.write(query, label)
            if last:
                questions.append((embeddings[label, held_out[int(label)]], label, vote))
                at_once.append(_is_correct(memory, *questions[-1]))
        at_end = [_is_correct(memory, *question) for question in questions]
    return Accuracy.of((torch.stack(at_once).float() - torch.stack(at_end).float()).cpu())


def _queries(
    embeddings: Tensor, stream: Stream, bar: Bar
) -> Iterator[tuple[Float[Tensor, " key_dim"], Int64[Tensor, ""]]]:
    """Embeddings and labels, one after the other."""
    labels = stream.classes.to(embeddings.device)
    for place in bar(range(len(labels))):
        yield embeddings[stream.classes[place], stream.drawings[place]], labels[place]


def _sightings(classes: Int64[Tensor, " shown"]) -> Int64[Tensor, " shown"]:
    """How often the class of each came before."""
    by_class = classes.argsort(stable=True)
    counts = classes.bincount()
    places = torch.arange(len(classes)) - (counts.cumsum(0) - counts)[classes[by_class]]
    return torch.empty_like(classes).scatter_(0, by_class, places)


def _is_correct(memory: Memory, query: Tensor, label: Tensor, vote: bool) -> Tensor:
    """Whether the value of the nearest key, or of the greatest sum of weights, is the label."""
    recall = memory(query, k=memory.k if vote else 1)
    answer = recall.prediction
    if vote:
        same = recall.values.unsqueeze(-1) == recall.values.unsqueeze(-2)
        votes = (same * recall.weights.unsqueeze(-2)).sum(-1)
        # The first of several greatest, which is the nearest.
        answer = recall.values[votes.argmax(-1)]
    return torch.eq(answer, label.to(answer.device))
