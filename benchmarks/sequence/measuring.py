"""What is measured: whole outputs that are correct, with a memory that is filled for it."""

import torch
from jaxtyping import Bool

from benchmarks.sequence.task import Examples
from benchmarks.sequence.translator import Translator
from rarememory.evaluation import Accuracy

BATCH = 256


def correct(translator: Translator, examples: Examples) -> Bool[torch.Tensor, " examples"]:
    """Whether the whole output of each example is correct, its end too; the shortest come first."""
    found = [
        ((translator.answers(some) == some.targets) | ~some.mask).all(dim=1)
        for some in examples.batches(BATCH)
    ]
    return torch.cat(found)


def accuracy(translator: Translator, examples: Examples) -> Accuracy:
    """The share of the examples whose whole output is correct."""
    return Accuracy.of(correct(translator, examples).float())


@torch.no_grad()
def fill_memory(translator: Translator, examples: Examples) -> None:
    """Fill the memory anew: the keys that training wrote were made by weights that have changed."""
    if translator.memory is None:
        return
    translator.memory.clear()
    for some in examples.batches(BATCH):
        steps = translator(some)
        assert steps.recall is not None
        translator.memory.write(steps.recall, some.targets)
