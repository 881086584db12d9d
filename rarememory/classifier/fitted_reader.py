"""The fitted reader of a memory: a discriminant that is fitted again after every change.

`rarememory.classifier.discriminant` has the formula, `rarememory.classifier.rehearsal` how classes
of a host are weighed against new ones.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.base.derived import Derived
from rarememory.base.spot_checks import SpotCheck, record_uncounted_change, row_bytes
from rarememory.base.state import EMPTY, host_may_read, in_transform
from rarememory.base.validation import check_finite, check_positive
from rarememory.base.versions import VersionTracker
from rarememory.classifier.beside_keys import (
    add_buffers,
    buffers_of,
    has_norms,
    norms_of,
    remembered_certainty,
    remembered_features,
)
from rarememory.classifier.blend import Classes, Evidence
from rarememory.classifier.discriminant import Discriminant, Settings
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.few_queries import FewQueries
from rarememory.classifier.forms import ByDistance, Form, form_of
from rarememory.classifier.max_logit import MaxLogit
from rarememory.classifier.metric import SHRINKAGES
from rarememory.classifier.openset import without_own_class
from rarememory.classifier.reader import Carriers, LeftOutEvidence, Reader
from rarememory.classifier.refinement import PENALTY
from rarememory.classifier.rehearsal import host_level, nearest_level, new_class_offset
from rarememory.memory import Memory
from rarememory.memory.queries import Rows, normalized, rows_of
from rarememory.memory.updates import FirstInFirstOut

NEAREST_SCALE = 16.0
"""Of the cosine of the nearest example, where there is nothing to fit a scale by."""
PENALTIES = (3e-5, 1e-4, 1e-3)
"""That are tried, beside the one that is there, by held-out examples."""
MAX_PENALTY = 1e6
"""Beyond it nothing would be refined, nor computed."""
_NEVER = -50.0
"""A logit that adds nothing to others."""


class FittedReader(Reader):
    """Class means in a fitted metric; it is fitted again at the first question after a change.

    A change that torch does not count (`.data`, NumPy, a collective) is found when an example of it
    is compared, one at each question; on a GPU `Memory.sync` has to tell.

    Args:
        settings: of the discriminant, where they are not found by leave-one-out.

    Example:
        >>> memory = Memory(2, memory_size=2)
        >>> write = memory.write(torch.eye(2), torch.tensor([3, 7]))
        >>> FittedReader().evidence(memory, torch.tensor([]), torch.eye(2)[:1], None).values
        tensor([[3, 7]])
    """

    name = "fitted"
    temperature = 1.0

    found_well: ClassVar = frozenset({"distances"})
    grid: ClassVar = {"distances": (0.0, 1.0), "shrinkage": SHRINKAGES, "penalty": PENALTIES}

    def __init__(self, settings: Settings = Settings()) -> None:  # noqa: B008, a tuple
        self._settings = settings
        self._fitted: tuple[list[VersionTracker], _Fitted] | None = None
        self._rows = SpotCheck()

    def empty_memory(self, key_dim: int, memory_size: int) -> Memory:
        """A memory with a slot for every example, and what is remembered beside its key."""
        memory = Memory(key_dim, memory_size, update=FirstInFirstOut())
        add_buffers(memory)
        return memory

    def __reduce__(self) -> tuple[type["FittedReader"], tuple[Settings]]:
        # A copy or pickle is fitted again: what was found out holds examples, forgotten ones too.
        return type(self), (self._settings,)

    @property
    def settings(self) -> dict[str, float | None]:
        """Shrinkage and distances (None: found by leave-one-out), and penalty."""
        return self._settings._asdict()

    def having(self, /, **settings: float | None) -> "FittedReader":
        """A reader with other settings.

        Raises:
            ValueError: there is no such setting, or a number cannot be one.
        """
        if settings.keys() - self.settings.keys():
            raise ValueError(f"the reader {self.name!r} has {[*self.settings]}, not {[*settings]}")
        shrinkage, penalty = settings.get("shrinkage"), settings.get("penalty", PENALTY)
        if shrinkage is not None:
            check_positive("shrinkage", shrinkage)
        check_finite("penalty", penalty)
        if settings.get("distances") not in (None, 0, 1):
            raise ValueError(f"distances must be 0, 1 or None, not {settings['distances']}")
        if (shrinkage or 0) > 1 or float(penalty or 0) > MAX_PENALTY:
            raise ValueError(
                f"shrinkage must be at most 1 and penalty {MAX_PENALTY:g}, not {shrinkage} and "
                f"{penalty}"
            )
        numbers = {name: None if one is None else float(one) for name, one in settings.items()}
        return FittedReader(Settings(**{**self.settings, **numbers}))  # type: ignore[arg-type]

    def decide(
        self,
        memory: Memory,
        ensembler: Ensembler,
        features: Tensor,
        outputs: Tensor | None,
        find_ids: Callable[[], Int64[Tensor, " classes"]],
        among: Int64[Tensor, " classes"] | None = None,
    ) -> list[int]:
        """As any reader, and few queries in less time."""
        weights, host_ids = ensembler.weights, ensembler.host_ids
        # A subclass may find other evidence.
        own = type(self) is FittedReader and memory.projection is None and among is None
        if own and FewQueries.can_read(features, outputs, weights) and ensembler.accepts_all():
            few = self._of(memory, host_ids).few_queries(find_ids, host_ids)
            found = None if few is None else few.decide(features, outputs, weights)
            if found is not None:
                return found
        return super().decide(memory, ensembler, features, outputs, find_ids, among)

    def evidence(
        self,
        memory: Memory,
        host_ids: Tensor,
        features: Tensor,
        logits: Tensor | None,
        among: Int64[Tensor, " classes"] | None = None,
    ) -> Evidence:
        """The logit of every remembered class, or of those of them that are asked about."""
        fitted = self._of(memory, host_ids)
        scores = fitted.logits_of_few(features) if memory.projection is None else None
        queries, mask = features, None
        if scores is None:
            rows = _rows(memory, features, fitted.by_length)
            queries, mask, scores = rows.queries, rows.mask, fitted.logits(rows.queries)
        if among is None:
            found = fitted.evidence(scores, logits, mask, fitted.plain(queries))
            return found._replace(host_terms=fitted.max_logit.terms_of(features, logits))
        excluded = ~torch.isin(fitted.classes, among)
        evidence = fitted.evidence(scores, logits, mask, fitted.plain(queries, excluded))
        asked = int((torch.isin(host_ids, among) & (host_ids != EMPTY)).sum())
        if asked == int((host_ids != EMPTY).sum()):
            # Of the remembered examples the max logit of all classes of the host is known.
            evidence = evidence._replace(host_terms=fitted.max_logit.terms_of(features, logits))
        return _with_nothing(evidence, excluded)._replace(host_score=fitted.host_score_of(asked))

    def without_own_class(
        self,
        memory: Memory,
        host_ids: Tensor,
        features: Tensor,
        logits: Tensor | None,
        own_ids: Int64[Tensor, " batch"],
    ) -> Evidence:
        """The logit of every other class, where the own one is left out of what was fitted too."""
        fitted = self._of(memory, host_ids)
        rows = _rows(memory, features, fitted.by_length)
        scores = fitted.foreign(rows.queries, own_ids)
        plain = fitted.plain(rows.queries, fitted.classes == own_ids.unsqueeze(1))
        evidence = fitted.evidence(scores, logits, rows.mask, plain)
        evidence = evidence._replace(host_terms=fitted.max_logit.terms_of(features, logits))
        return without_own_class(evidence, own_ids, host_ids)

    def left_out(self, memory: Memory, host_ids: Tensor) -> LeftOutEvidence:
        """The logits of each remembered example, itself left out."""
        return self._of(memory, host_ids).left_out(host_ids)

    def host_score(self, memory: Memory, host_ids: Tensor) -> float:
        """A high quantile of what remembered classes say of examples of each other."""
        return self._of(memory, host_ids).host_score

    def carriers(
        self, memory: Memory, host_ids: Tensor, features: Tensor, logits: Tensor | None, k: int
    ) -> Carriers:
        """All examples: a class's logit is a sum over its examples, of which each has a share."""
        fitted = self._of(memory, host_ids)
        queries = _rows(memory, features, fitted.by_length).queries
        evidence = self.evidence(memory, host_ids, features, logits)
        slots = memory.state.occupied.nonzero().squeeze(1)
        keys, features = memory.keys[slots], remembered_features(memory, slots)
        columns = torch.searchsorted(fitted.classes, memory.values[slots])
        parts = fitted.similarities(queries, features).float().clamp(min=1e-6)
        sums = torch.zeros_like(evidence.scores).index_add_(1, columns, parts)
        cosines = normalized(queries, memory.keys.dtype)[0] @ keys.T
        return Carriers(
            evidence,
            columns.expand_as(parts),
            parts / sums[:, columns],
            slots.expand_as(parts),
            cosines.float(),
        )

    def _of(self, memory: Memory, host_ids: Tensor) -> "_Fitted":
        if torch.compiler.is_compiling():
            # A compiled program does not see that the memory has changed. Not a decorator, with
            # which torch would import its compiler for everybody.
            fitted: _Fitted = torch.compiler.disable(self._up_to_date)(memory, host_ids)
            return fitted
        return self._up_to_date(memory, host_ids)

    def _up_to_date(self, memory: Memory, host_ids: Tensor) -> "_Fitted":
        beside = [memory.get_buffer(name) for name in buffers_of(memory)]
        tensors, kept = (memory.keys, memory.values, host_ids, *beside), self._fitted
        if kept is not None and _are_unchanged(kept[0], tensors):
            if kept[1].is_of(memory.keys, memory.values, self._rows.next(kept[1].keys)):
                return kept[1]
            record_uncounted_change(memory.keys)
        trackers = [VersionTracker() for _ in tensors]
        # Before the fit, so that a change meanwhile is seen.
        for tracker, tensor in zip(trackers, tensors, strict=True):
            tracker.record(tensor)
        slots = memory.state.occupied.nonzero().squeeze(1)
        examples = slots, memory.keys[slots], memory.values[slots]
        found = remembered_features(memory, slots), remembered_certainty(memory, slots)
        fitted = _Fitted(*examples, *found, host_ids, self._settings)
        if not in_transform():
            # In one step, because other threads may ask at the same time.
            self._fitted = trackers, fitted
        return fitted


def _are_unchanged(trackers: list[VersionTracker], tensors: tuple[Tensor, ...]) -> bool:
    """Whether these tensors, no more and no fewer, are recorded and have not changed."""
    same = len(trackers) == len(tensors)
    return same and all(map(VersionTracker.is_unchanged, trackers, tensors))


def _with_nothing(evidence: Evidence, where: Tensor) -> Evidence:
    return evidence._replace(
        scores=evidence.scores.masked_fill(where, -torch.inf),
        values=evidence.values.masked_fill(where, EMPTY),
    )


class _Fitted:
    """What was found out from some remembered examples.

    Of several classes it is a discriminant. One class has nothing to be told from, and two beside
    classes of a host are each the mean of the other: then it is the cosine of the nearest example.
    """

    def __init__(
        self,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
        features: Tensor,
        certainty: Tensor,
        host_ids: Tensor,
        settings: Settings,
    ) -> None:
        self.keys, self.values = keys, values
        self._few: Derived[FewQueries | None] = Derived()
        # Where the host would have to wait for them, it never asks.
        self.slots = slots.tolist() if host_may_read(slots) else []
        self.classes, self.places = values.unique(return_inverse=True)
        self.discriminant: Form | None = None
        self.offsets = torch.zeros(len(self.classes), device=keys.device)
        of_host = torch.isin(self.classes, host_ids)
        foreign_host = not torch.isin(host_ids[host_ids != EMPTY], self.classes).all()
        if len(self.classes) > 1 + foreign_host:
            self.discriminant = form_of(keys, features, values, settings, bool(foreign_host))
            offset = new_class_offset(self.discriminant.left_out, of_host) if of_host.any() else 0.0
            self.offsets = torch.where(of_host, 0.0, offset)
        self._log_confidences, self._max_logits = certainty[:, 0].log(), certainty[:, 1]
        self._foreign_host = bool(foreign_host)
        self.max_logit = MaxLogit()
        if self._foreign_host:
            new = ~of_host[self.places]
            self.max_logit = MaxLogit.beside(self._max_logits[new], self.places[new])
        self.host_score = self.host_score_of(int((host_ids != EMPTY).sum()))

    @property
    def by_length(self) -> bool:
        """Whether it compares features by their distance, and not by their direction alone."""
        return isinstance(self.discriminant, ByDistance)

    def is_of(self, keys: Tensor, values: Tensor, row: int | None) -> bool:
        """Whether one of the examples, if a row is given, is what a memory holds in its slot."""
        if row is None or not keys.is_contiguous():
            return True
        slot = self.slots[row]
        same = row_bytes(keys, slot) == row_bytes(self.keys, row)
        return same and row_bytes(values, slot) == row_bytes(self.values, row)

    def host_score_of(self, count: int) -> float:
        """The score of a class of the host of which nothing is remembered.

        Args:
            count: classes of the host that are asked about. Of one alone a host is always sure, and
                of the likeliest of C at least by 1 / C.
        """
        if not self._foreign_host:
            return _NEVER
        log_confidences = self._log_confidences.clamp(min=-math.log(max(1, count)))
        if self.discriminant is not None:
            left_out = self.discriminant.left_out
            return host_level(left_out, log_confidences[left_out.samples])
        cosines = self._cosines(self.keys.float())
        return NEAREST_SCALE * nearest_level(cosines, self.places, log_confidences / NEAREST_SCALE)

    def evidence(
        self,
        scores: Tensor,
        logits: Tensor | None,
        mask: Tensor | None = None,
        plain: Callable[[], Tensor] | None = None,
    ) -> Evidence:
        """Logits of the remembered classes, beside the host's; of masked rows there is nothing."""
        scores, values = scores.float(), self.classes.expand(len(scores), -1)
        if mask is not None:
            nothing = ~mask.unsqueeze(1)
            scores, values = (
                scores.masked_fill(nothing, -torch.inf),
                values.masked_fill(nothing, EMPTY),
            )
        return Evidence(scores, values, logits, self.host_score, True, plain)

    def logits(self, queries: Tensor) -> Tensor:
        """The logit of every class."""
        if self.discriminant is not None:
            return self.discriminant.logits(queries) + self.offsets
        best = queries.new_full((len(queries), len(self.classes)), -torch.inf)
        places = self.places.expand(len(queries), -1)
        return NEAREST_SCALE * best.scatter_reduce(1, places, self._cosines(queries), "amax")

    def plain(self, queries: Tensor, excluded: Tensor | None = None) -> Callable[[], Tensor] | None:
        """What gives the greatest plain cosines, perhaps without some classes; None without a mean.

        They are found when they are asked for: an answer without a threshold needs none.
        """
        if not isinstance(self.discriminant, Discriminant):
            return None
        return partial(self.discriminant.plain.greatest, queries, excluded)

    def logits_of_few(self, features: Tensor) -> Tensor | None:
        """`logits` of features of any length, if the discriminant has them in one call."""
        if not isinstance(self.discriminant, Discriminant):
            return None
        logits = self.discriminant.logits_of_few(features)
        return None if logits is None else logits + self.offsets

    def few_queries(
        self, find_ids: Callable[[], Int64[Tensor, " classes"]], host_ids: Tensor
    ) -> FewQueries | None:
        """What decides about few queries beside a host of these classes; None if nothing does.

        The integers of all classes change with the memory, which this is fitted to, or with those
        of the host.
        """
        return self._few.of(lambda host_ids: self._made_ready(find_ids(), host_ids), host_ids)

    def _made_ready(self, ids: Tensor, host_ids: Tensor) -> FewQueries | None:
        if not isinstance(self.discriminant, Discriminant):
            return None
        of_host = self.host_score, self.max_logit
        return FewQueries(self.discriminant, self.offsets, Classes(ids, host_ids), *of_host)

    def _cosines(self, queries: Tensor) -> Tensor:
        return torch.nn.functional.normalize(queries, dim=1) @ self.keys.to(queries.dtype).T

    def foreign(self, queries: Tensor, own_ids: Tensor) -> Tensor:
        """The logit of every class, if the own class of a query had never been learnt."""
        logits = self.logits(queries)
        if self.discriminant is None or len(self.classes) == 2:
            # Nothing to centre by would be left.
            return logits
        places = torch.searchsorted(self.classes, own_ids).clamp(max=len(self.classes) - 1)
        is_remembered = (self.classes[places] == own_ids).unsqueeze(1)
        foreign = self.discriminant.foreign(queries, places) + self.offsets
        return foreign.where(is_remembered, logits)

    def left_out(self, host_ids: Tensor) -> LeftOutEvidence:
        """Evidence for the remembered examples, each of them left out."""
        plain = foreign_plain = None
        if self.discriminant is None:
            logits = foreign = self.logits(self.keys)
            own = self.classes[self.places]
            several = torch.zeros_like(own, dtype=torch.bool)
            samples = torch.arange(len(own), device=own.device)
        else:
            found = self.discriminant.left_out
            logits, own = found.logits + self.offsets, self.classes[found.classes]
            several, samples = found.several, found.samples
            foreign = logits if len(self.classes) == 2 else found.foreign + self.offsets
            if isinstance(self.discriminant, Discriminant):
                examples = self.keys[found.samples]
                cosines = self.discriminant.plain
                plain = partial(cosines.greatest_left_out, examples, found.classes)
                foreign_plain = self.plain(examples, self.classes == own.unsqueeze(1))
        terms = self.max_logit.terms(self._max_logits[samples])
        without_own = self.evidence(foreign, None, plain=foreign_plain)
        without_own = without_own_class(without_own, own, host_ids)._replace(host_terms=terms)
        with_own = self.evidence(logits, None, plain=plain)._replace(host_terms=terms)
        return LeftOutEvidence(with_own, without_own, own, several, samples)

    def similarities(self, queries: Tensor, features: Tensor) -> Tensor:
        """How alike queries and examples are, as the discriminant compares them."""
        if self.discriminant is None:
            return self._cosines(queries)
        return self.discriminant.similarities(queries, features)


def _rows(memory: Memory, features: Tensor, by_length: bool) -> Rows:
    """Queries as the memory itself checks, projects and normalises them; float32 at least.

    They have their own length where distances are compared, if the memory has that of examples.
    """
    rows = rows_of(features, None, None, memory.keys, memory.projection, memory.validate)
    queries = rows.queries.to(torch.promote_types(rows.queries.dtype, torch.float32))
    if by_length and has_norms(memory):
        queries = queries * norms_of(features).unsqueeze(1)
    return rows._replace(queries=queries)
