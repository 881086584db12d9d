"""Tuning remembered keys by their own examples, until examples that are held out say enough."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rarememory.base.progress import progress_bar
from rarememory.base.validation import check_count, check_positive
from rarememory.classifier.answering import Answerer
from rarememory.classifier.labelled import LabelledOutputs
from rarememory.classifier.tuned_keys import TunableKeys


class Merit(NamedTuple):
    """How well held-out examples are answered; the greater is the better."""

    accuracy: float
    likelihood: float


class Finetuned(NamedTuple):
    """What tuning did.

    Attributes:
        epochs: that were run.
        best: the epoch whose keys are kept; 0 for the keys as they were.
        before: share of the held-out examples that were answered rightly.
        after: the same with the keys that are kept.

    Example:
        >>> Finetuned(epochs=8, best=5, before=0.7, after=0.75).after
        0.75
    """

    epochs: int
    best: int
    before: float
    after: float


class Judge:
    """The classifier's own answers to held-out examples, by keys that are not in its memory yet.

    Args:
        keys: that are tuned.
        answerer: answers; its memory is a copy, which forgets the held-out examples themselves.
        held_out: the examples.
    """

    def __init__(self, keys: TunableKeys, answerer: Answerer, held_out: LabelledOutputs) -> None:
        self._answerer, self._examples = answerer, held_out
        self._kept = ~keys.own(held_out.features, held_out.ids).any(0)
        self._slots = keys.slots[self._kept]
        answerer.memory.forget(slots=keys.slots[~self._kept])

    @torch.no_grad()
    def __call__(self, keys: Tensor) -> Merit:
        """How well they are answered by these keys."""
        stored, examples = self._answerer.memory.keys, self._examples
        stored[self._slots] = normalize(keys[self._kept], dim=1).to(stored.dtype)
        p = self._answerer.probabilities(examples.features, examples.logits)
        columns = torch.searchsorted(self._answerer.ids, examples.ids)
        own = p.gather(1, columns.unsqueeze(1)).double()
        accuracy = (p.argmax(1) == columns).double().mean()
        return Merit(accuracy.item(), own.clamp(min=1e-12).log().mean().item())


def finetune(
    keys: TunableKeys,
    examples: list[LabelledOutputs],
    held_out: list[LabelledOutputs] | None,
    judge_of: Callable[[LabelledOutputs], Judge],
    epochs: int,
    learning_rate: float,
    patience: int,
    batch_size: int,
    progress: bool | None,
) -> Finetuned:
    """Tune the keys in place, to those of the epoch that the judge finds best.

    Args:
        keys: to tune.
        examples: to tune with, in an order that is drawn anew, and the same each time.
        held_out: for the judge; if None, a part of the examples.
        judge_of: of the keys after each epoch; the keys as they are come first, and win a tie.
        epochs: at most.
        learning_rate: of Adam.
        patience: epochs without a better one, after which tuning ends.
        batch_size: examples a step.
        progress: whether to show a bar over the epochs.

    Raises:
        ValueError: a number is wrong, or there are no examples, or none to hold out.
    """
    check_count("epochs", epochs)
    check_count("patience", patience)
    check_positive("learning_rate", learning_rate)
    known = LabelledOutputs.joined(examples)
    if held_out is None:
        known, judged = known.parted()
    else:
        judged = LabelledOutputs.joined(held_out)
    judge, draw = judge_of(judged), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(keys.parameters(), lr=learning_rate)
    first = merit = judge(keys.keys)
    best, kept, epoch = 0, keys.keys.detach().clone(), 0
    with progress_bar(range(1, epochs + 1), unit="epoch", show=progress) as bar:
        for epoch in bar:
            order = torch.randperm(len(known.ids), generator=draw).to(known.ids.device)
            for rows in order.split(batch_size):
                losses = keys.losses(*known.some(rows))
                if len(losses):
                    optimizer.zero_grad()
                    losses.mean().backward()
                    optimizer.step()
            found = judge(keys.keys)
            bar.set_postfix(held_out=f"{found.accuracy:.3f}")
            if found > merit:
                best, merit, kept = epoch, found, keys.keys.detach().clone()
            if epoch - best >= patience:
                break
    keys.keys.data.copy_(kept)
    return Finetuned(epoch, best, first.accuracy, merit.accuracy)
