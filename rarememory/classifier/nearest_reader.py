"""The nearest reader: the remembered examples nearest to a query vote (Kaiser et al. 2017)."""

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier import openset
from rarememory.classifier.blend import Evidence
from rarememory.classifier.reader import Carriers, LeftOutEvidence, Reader
from rarememory.classifier.tuned_keys import learnt_keys
from rarememory.memory import Memory


class NearestReader(Reader):
    """The vote of the nearest remembered examples.

    Example:
        >>> memory = Memory(2, memory_size=2)
        >>> write = memory.write(torch.eye(2), torch.tensor([3, 7]))
        >>> NearestReader().evidence(memory, torch.tensor([]), torch.eye(2)[:1], None).values[0, :2]
        tensor([3, 7])
    """

    name = "nearest"
    temperature = None

    def evidence(
        self,
        memory: Memory,
        host_ids: Tensor,
        features: Tensor,
        logits: Tensor | None,
        among: Int64[Tensor, " classes"] | None = None,
    ) -> Evidence:
        """The nearest examples, perhaps of some classes, and their cosines."""
        recall = memory(features, among=among)
        return Evidence(recall.scores.float(), recall.values, logits)

    def without_own_class(
        self,
        memory: Memory,
        host_ids: Tensor,
        features: Tensor,
        logits: Tensor | None,
        own_ids: Int64[Tensor, " batch"],
    ) -> Evidence:
        """The nearest examples of other classes."""
        recall = memory(features, exclude_labels=own_ids)
        evidence = Evidence(recall.scores.float(), recall.values, logits)
        return openset.without_own_class(evidence, own_ids, host_ids)

    def left_out(self, memory: Memory, host_ids: Tensor) -> LeftOutEvidence:
        """The nearest other examples to each remembered one, and the nearest of other classes.

        An example that is alone in its class is among its nearest ones.
        """
        if memory.projection is not None:
            raise ValueError(
                "the memory projects its queries, and its keys are projected already: give "
                "inputs, or unknown="
            )
        slots = memory.state.occupied.nonzero().squeeze(1)
        keys, own = learnt_keys(memory)[slots], memory.values[slots]
        without_own = self.without_own_class(memory, host_ids, keys, None, own)
        _, place, counts = own.unique(return_inverse=True, return_counts=True)
        several = counts[place] > 1
        others = memory(keys, exclude=slots.where(several, EMPTY))
        with_own = Evidence(others.scores.float(), others.values, None)
        samples = torch.arange(len(own), device=own.device)
        return LeftOutEvidence(with_own, without_own, own, several, samples)

    def host_score(self, memory: Memory, host_ids: Tensor) -> float:
        """0.8."""
        return 0.8

    def carriers(
        self, memory: Memory, host_ids: Tensor, features: Tensor, logits: Tensor | None, k: int
    ) -> Carriers:
        """The nearest examples, each for itself."""
        recall = memory(features, k=max(k, memory.k))
        evidence = Evidence(recall.scores.float(), recall.values, logits)
        columns = torch.arange(recall.slots.shape[1], device=recall.slots.device)
        shares = torch.ones_like(evidence.scores)
        return Carriers(
            evidence, columns.expand_as(recall.slots), shares, recall.slots, recall.scores
        )
