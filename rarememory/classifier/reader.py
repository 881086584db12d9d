"""The interface of a reader: what remembered examples say of a query, as evidence for classes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.classifier.blend import Evidence
from rarememory.classifier.ensembler import Ensembler
from rarememory.memory import Memory


class Reader(ABC):
    """How a classifier's memory is asked.

    Attributes:
        name: as it is given to `MemoryClassifier`, and stored in a file.
        temperature: divides the scores of its evidence; None for the memory's.
        grid: settings, and the values of each that held-out examples choose from.
        found_well: those of them that remembered examples find as well as held-out ones do.
    """

    name: str
    temperature: float | None
    grid: ClassVar[Mapping[str, Sequence[float | None]]] = {}
    found_well: ClassVar[frozenset[str]] = frozenset()

    @property
    def settings(self) -> dict[str, float | None]:
        """What is set, by name; stored in a file."""
        return {}

    def having(self, /, **settings: float | None) -> "Reader":
        """A reader with other settings.

        Raises:
            ValueError: there is no such setting.
        """
        if settings:
            raise ValueError(f"the reader {self.name!r} has no settings, so not {[*settings]}")
        return self

    def empty_memory(self, key_dim: int, memory_size: int) -> Memory:
        """A new memory that is written as this reader reads best."""
        return Memory(key_dim, memory_size)

    def read(
        self,
        memory: Memory,
        ensembler: Ensembler,
        features: Tensor,
        outputs: Tensor | None,
        among: Int64[Tensor, " classes"] | None = None,
    ) -> Evidence:
        """What the memory says of every row, beside what the model's outputs say as a host."""
        logits, host_ids = ensembler.host_logits(outputs), ensembler.host_ids
        if among is not None:
            logits = ensembler.logits_among(logits, among)
        return self.evidence(memory, host_ids, features, logits, among)

    def decide(
        self,
        memory: Memory,
        ensembler: Ensembler,
        features: Tensor,
        outputs: Tensor | None,
        find_ids: Callable[[], Int64[Tensor, " classes"]],
        among: Int64[Tensor, " classes"] | None = None,
    ) -> list[int]:
        """The integer of the likeliest class of each row, as `Ensembler.decide` finds it.

        Args:
            memory: to ask.
            ensembler: weighs its evidence against that of the host.
            features: of the model.
            outputs: its logits, if it is a host.
            find_ids: gives the integers of all classes.
            among: the integers of those that are asked about; None for all.
        """
        evidence = self.read(memory, ensembler, features, outputs, among)
        return ensembler.decide(evidence, find_ids() if among is None else among)

    @abstractmethod
    def evidence(
        self,
        memory: Memory,
        host_ids: Tensor,
        features: Tensor,
        logits: Tensor | None,
        among: Int64[Tensor, " classes"] | None = None,
    ) -> Evidence:
        """What the memory says of every row of features, perhaps only of some classes."""

    @abstractmethod
    def without_own_class(
        self,
        memory: Memory,
        host_ids: Tensor,
        features: Tensor,
        logits: Tensor | None,
        own_ids: Int64[Tensor, " batch"],
    ) -> Evidence:
        """The same as if the own class of each row had never been learnt."""

    @abstractmethod
    def left_out(self, memory: Memory, host_ids: Tensor) -> "LeftOutEvidence":
        """The same of the remembered examples."""

    @abstractmethod
    def host_score(self, memory: Memory, host_ids: Tensor) -> float:
        """The score of a class of the host of which nothing is remembered."""

    @abstractmethod
    def carriers(
        self, memory: Memory, host_ids: Tensor, features: Tensor, logits: Tensor | None, k: int
    ) -> "Carriers":
        """The remembered examples behind the evidence, at least k if there are as many."""


class LeftOutEvidence(NamedTuple):
    """Evidence for remembered examples that are left out.

    Attributes:
        with_own: of all classes; None if that is not known without the example.
        several: whether its class has other examples; if not, `with_own` has seen it.
        without_own: as if the own class of each example had never been learnt.
        own_ids: the integers of their classes.
        samples: which of the remembered examples each is, in the order of their slots.
    """

    with_own: Evidence | None
    without_own: Evidence
    own_ids: Int64[Tensor, " examples"]
    several: Bool[Tensor, " examples"]
    samples: Int64[Tensor, " examples"]


class Carriers(NamedTuple):
    """Remembered examples that carry the evidence for a query.

    Attributes:
        evidence: of memory and host.
        columns: which score of the evidence each example is part of.
        shares: its part of that score, in [0, 1].
        slots: where it is; EMPTY where there is none.
        cosines: with the query.
    """

    evidence: Evidence
    columns: Int64[Tensor, "batch examples"]
    shares: Float[Tensor, "batch examples"]
    slots: Int64[Tensor, "batch examples"]
    cosines: Float[Tensor, "batch examples"]
