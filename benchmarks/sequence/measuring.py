"""What is measured: whole outputs that are right, and what a memory was filled with."""

import torch
from jaxtyping import Bool

from benchmarks.sequence.task import FIRST_SYMBOL, Examples
from benchmarks.sequence.translator import Translator
from rarememory.evaluation import Accuracy

BATCH = 256


def right(translator: Translator, examples: Examples) -> Bool[torch.Tensor, " examples"]:
    """Of which examples the whole output is right, its end included; the shortest come first."""
    found = [
        ((translator.answers(some) == some.targets) | ~some.mask).all(dim=1)
        for some in examples.batches(BATCH)
    ]
    return torch.cat(found)


def accuracy(translator: Translator, examples: Examples) -> Accuracy:
    """The part of the examples whose whole output is right."""
    return Accuracy.of(right(translator, examples).float())


@torch.no_grad()
def remember(translator: Translator, examples: Examples) -> None:
    """Fill the memory anew with all steps of the examples, as the translator sees them now.

    What training wrote was made by weights that have changed since.
    """
    if translator.memory is None:
        return
    translator.memory.clear()
    for some in examples.batches(BATCH):
        steps = translator(some)
        assert steps.recall is not None
        translator.memory.write(steps.recall, some.targets)


def slots_by_kind(translator: Translator) -> dict[str, int]:
    """How many slots hold symbols, and how many letters and ends."""
    if translator.memory is None:
        return {}
    values = translator.memory.state.values[translator.memory.state.occupied]
    symbols = int((values >= FIRST_SYMBOL).sum())
    return {"symbols": symbols, "letters": len(values) - symbols}
