"""The memory of "Learning to Remember Rare Events" (Kaiser et al., ICLR 2017) in plain loops.

"The paper" is arXiv:1703.03129; its section 2 defines the memory: keys K, values V, ages A.
What it leaves open (empty slots, batches, ties) is marked "Ours". No tensors: this file judges.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EMPTY = -1

Vector = list[float]
Vectors = list[Vector]
Mask = list[bool] | None
Some = list[int] | None
Array = NDArray[np.float64]
Noise = list[float] | Callable[[int], list[float]] | None


class Recall(NamedTuple):
    """What one query found, best first."""

    slots: list[int]
    scores: list[float]
    values: list[int]
    weights: list[float]
    prediction: int
    confidence: float


class Written(NamedTuple):
    """What became of one row; a masked row keeps the defaults."""

    slot: int = -1
    hit: bool = False
    overwritten: int = EMPTY


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def unit(x: Vector) -> Vector:
    """x / |x|: queries and keys have length 1 (section 2)."""
    return [a / math.hypot(*x) for a in x]


def fingerprint(query: Vector) -> float:
    """Ours: orders the rows of a batch by what they are, not by where they stand."""
    return math.fsum(a * math.cos(i + 1) for i, a in enumerate(unit(query)))


def chosen(queries: Vectors, mask: Mask) -> list[int]:
    """Ours: the rows that count."""
    return [row for row in range(len(queries)) if mask is None or mask[row]]


class PaperMemory:
    def __init__(
        self, key_dim: int, memory_size: int, margin: float = 0.1, temperature: float = 0.025
    ) -> None:
        self.key_dim, self.margin, self.temperature, self.clock = key_dim, margin, temperature, 0
        self.keys: list[Vector | None] = [None] * memory_size
        self.values, self.ages = [EMPTY] * memory_size, [0] * memory_size
        self.uses, self.used, self.reads = [0] * memory_size, [0] * memory_size, 0

    def key(self, slot: int) -> Vector:
        key = self.keys[slot]
        assert key is not None, f"slot {slot} is empty"
        return key

    def score(self, query: Vector, slot: int) -> float:
        """q . K[slot], both of length 1 (section 2)."""
        return dot(unit(query), self.key(slot))

    def nearest(self, query: Vector, k: int, among: Some = None) -> list[int]:
        """n_1, ..., n_k, decreasing in q . K[n] (section 2). Ours: ties lower slot, empty never.

        Ours: among some slots only, if they are given.
        """
        occupied = [slot for slot, value in enumerate(self.values) if value != EMPTY]
        occupied = [slot for slot in occupied if among is None or slot in among]
        return sorted(occupied, key=lambda slot: (-self.score(query, slot), slot))[:k]

    def read(self, query: Vector, k: int, among: Some = None) -> Recall:
        """V[n_1]; softmax(d_1 t, ..., d_k t), d_i = q . K[n_i], t = 1 / temperature (section 2)."""
        slots = self.nearest(query, k, among)
        if not slots:
            return Recall([], [], [], [], EMPTY, 0.0)
        scores = [self.score(query, slot) for slot in slots]
        values = [self.values[slot] for slot in slots]
        # The best score is subtracted from all: the same softmax, and no overflow.
        powers = [math.exp((score - scores[0]) / self.temperature) for score in scores]
        weights = [power / math.fsum(powers) for power in powers]
        return Recall(slots, scores, values, weights, values[0], weights[0])

    def record(self, slots: list[int]) -> None:
        """Ours: these slots, the nearest of the queries of one read, have answered."""
        self.reads += 1
        for slot in slots:
            if slot != EMPTY:
                self.uses[slot], self.used[slot] = self.uses[slot] + 1, self.reads

    def nearest_pair(
        self, query: Vector, label: int, among: Some = None
    ) -> tuple[int | None, int | None]:
        """n_p, n_b: the nearest with V[n] = v, with V[n] != v (section 2). Ours: of all slots."""
        ranking = self.nearest(query, len(self.keys), among)
        positives = [slot for slot in ranking if self.values[slot] == label]
        negatives = [slot for slot in ranking if self.values[slot] != label]
        return positives[0] if positives else None, negatives[0] if negatives else None

    def row_loss(self, query: Vector, label: int, among: Some = None) -> float:
        """[q . K[n_b] - q . K[n_p] + alpha]_+ (section 2), alpha = margin.

        Ours: without n_b it is 0; without n_p the positive score is 0, as in the authors' code.
        """
        positive, negative = self.nearest_pair(query, label, among)
        if negative is None:
            return 0.0
        positive_score = 0.0 if positive is None else self.score(query, positive)
        return max(0.0, self.score(query, negative) - positive_score + self.margin)

    def loss(self, queries: Vectors, labels: list[int], mask: Mask = None) -> float:
        """Ours: the mean over the rows that count, 0 if none does."""
        rows = chosen(queries, mask)
        return math.fsum(self.row_loss(queries[r], labels[r]) for r in rows) / max(1, len(rows))

    def loss_gradient(self, queries: Vectors, labels: list[int], mask: Mask = None) -> Vectors:
        """d(loss) / d(raw queries), keys constant: d(q.K / |q|) / dq = (K - (u.K) u) / |q|."""
        gradient, rows = [[0.0] * self.key_dim for _ in queries], chosen(queries, mask)
        for row in rows:
            if self.row_loss(queries[row], labels[row]) == 0.0:
                continue
            positive, negative = self.nearest_pair(queries[row], labels[row])
            u, length = unit(queries[row]), math.hypot(*queries[row])
            for slot, sign in ((negative, 1.0), (positive, -1.0)):
                if slot is not None:
                    cosine = self.score(queries[row], slot)
                    for i, x in enumerate(self.key(slot)):
                        gradient[row][i] += sign * (x - cosine * u[i]) / length / len(rows)
        return gradient

    def write(
        self, queries: Vectors, labels: list[int], mask: Mask = None,
        noise: Noise = None, average: bool = True, evict: str = "oldest",
    ) -> list[Written]:  # fmt: skip
        """Section 2's update. Ours: a batch is a set; rows that found no slot are written again."""
        assert self.keys and evict in ("oldest", "random", "idle", "unused")
        written = [Written() for _ in queries]
        waiting = chosen(queries, mask)
        while waiting:
            r = noise(self.clock) if callable(noise) else noise or [0.0] * len(self.keys)

            # n_1 of every row, in the memory as it was before this write.
            n1 = {row: slot for row in waiting for slot in self.nearest(queries[row], 1)}
            hits = [row for row in n1 if self.values[n1[row]] == labels[row]]
            averaged = hits if average else []
            inserted = [row for row in waiting if row not in averaged]
            updated = {n1[row] for row in averaged}

            # V[n_1] = v: K[n_1] <- (q + K[n_1]) / |q + K[n_1]| (section 2).
            # Ours: all rows that hit n_1 in one sum; if they cancel, the key stays.
            for slot in updated:
                parts = [unit(queries[row]) for row in averaged if n1[row] == slot]
                total = [math.fsum(x) for x in zip(self.key(slot), *parts, strict=True)]
                if math.hypot(*total) >= 1e-12:
                    self.keys[slot] = unit(total)
            for row in averaged:
                written[row] = Written(n1[row], hit=True)

            # Otherwise n' = argmax_i A[i] + r_i (section 2).
            # Ours: no slot just averaged into; empty ones first; "random" is r alone; ties lower.
            free = [s for s, value in enumerate(self.values) if value == EMPTY]
            full = [s for s in range(len(self.keys)) if s not in free and s not in updated]
            # Ours: by usage, "idle" the longest without an answer, "unused" the fewest; then age.
            full.sort(key=lambda s: (-((self.ages[s] if evict == "oldest" else 0) + r[s]), s))
            if evict in ("idle", "unused"):
                first = self.used if evict == "idle" else self.uses
                full.sort(key=lambda s: (first[s], -self.ages[s], s))
            inserted.sort(key=lambda row: (labels[row], fingerprint(queries[row])))
            # K[n'] <- q, V[n'] <- v (section 2). Ours: each row its own slot.
            for row, slot in zip(inserted, free + full, strict=False):
                written[row] = Written(slot, row in hits, self.values[slot])
                self.keys[slot], self.values[slot] = unit(queries[row]), labels[row]
                self.uses[slot], self.used[slot] = 0, self.reads
                updated.add(slot)

            # A[updated] <- 0; all slots not updated grow older by 1 (section 2). Ours: if occupied.
            for slot, value in enumerate(self.values):
                self.ages[slot] = 0 if slot in updated or value == EMPTY else self.ages[slot] + 1
            self.clock += 1
            waiting = inserted[len(free + full) :]
        return written

    def forget(self, labels: Some = None, slots: Some = None, older_than: int | None = None) -> int:
        """Ours: empties the slots that meet every condition given (all, if none is)."""
        occupied = [slot for slot, value in enumerate(self.values) if value != EMPTY]
        gone = [s for s in occupied if labels is None or self.values[s] in labels]
        gone = [s for s in gone if slots is None or s in slots]
        gone = [s for s in gone if older_than is None or self.ages[s] > older_than]
        for slot in gone:
            self.keys[slot], self.values[slot], self.ages[slot] = None, EMPTY, 0
            self.uses[slot], self.used[slot] = 0, 0
        return len(gone)

    def merge(self, other: "PaperMemory") -> list[int]:
        """Ours: the youngest of both; of equal ages our own, then the lower slot.

        Those of the other one go to the lowest free slots, in their order. Returns where they went.
        """
        size = len(self.keys)
        ranking = [
            (memory.ages[slot], number, slot)
            for number, memory in enumerate((self, other))
            for slot, value in enumerate(memory.values)
            if value != EMPTY
        ]
        kept = sorted(ranking)[:size]
        later = max(self.reads, other.reads)
        self.used = [used + later - self.reads for used in self.used]
        for age, number, slot in ranking:
            if number == 0 and (age, number, slot) not in kept:
                self.forget(slots=[slot])
        went = [EMPTY] * len(other.keys)
        for _, _, slot in sorted((age, n, slot) for age, n, slot in kept if n == 1):
            went[slot] = 0
        for slot in [slot for slot, place in enumerate(went) if place != EMPTY]:
            free = self.values.index(EMPTY)
            self.keys[free], self.values[free] = other.keys[slot], other.values[slot]
            self.ages[free], went[slot] = other.ages[slot], free
            self.uses[free] = other.uses[slot]
            self.used[free] = other.used[slot] + later - other.reads
        self.reads = later
        self.clock = max(self.clock, other.clock)
        return went

    def clear(self) -> None:
        """Ours: every slot becomes empty; the clock goes on."""
        self.forget()

    def resize(self, memory_size: int) -> None:
        """Ours: growing appends empty slots; shrinking packs the youngest in slot order."""
        kept = list(range(len(self.keys)))
        if memory_size < len(kept):
            occupied = [slot for slot in kept if self.values[slot] != EMPTY]
            kept = sorted(sorted(occupied, key=lambda slot: (self.ages[slot], slot))[:memory_size])
        new = memory_size - len(kept)
        self.keys = [self.keys[slot] for slot in kept] + [None] * new
        self.values = [self.values[slot] for slot in kept] + [EMPTY] * new
        self.ages = [self.ages[slot] for slot in kept] + [0] * new
        self.uses = [self.uses[slot] for slot in kept] + [0] * new
        self.used = [self.used[slot] for slot in kept] + [0] * new


def hubness(keys: Vectors, values: list[int], neighbors: int = 10) -> dict[int, float]:
    """Conneau et al. 2018, section 2.3, r of a class's mean among the keys of the other classes.

    All classes have as many neighbours, so no more than any of them has.
    """
    classes = sorted(set(values))
    k = min([neighbors, *(len(values) - values.count(value) for value in classes)])
    found: dict[int, float] = {}
    for value in classes:
        own = [unit(key) for key, its in zip(keys, values, strict=True) if its == value]
        mean = unit([math.fsum(column) for column in zip(*own, strict=True)])
        others = [unit(key) for key, its in zip(keys, values, strict=True) if its != value]
        nearest = sorted((dot(mean, key) for key in others), reverse=True)[:k]
        found[value] = math.fsum(nearest) / k if k else 0.0
    return found


def class_attention_scores(
    keys: Vectors,
    values: list[int],
    query: Vector,
    temperature: float,
    hubness_correction: float = 0.0,
) -> dict[int, float]:
    """Ours: the cosine of a query and the mean of each class's keys, those like it weighing more.

    The support is that of Snell et al. 2017, equation 1, and the weights are a softmax over cosines
    as in Vinyals et al. 2016, section 2.1.1, but within each class. The hubness of a class, times
    hubness_correction, is taken off.
    """
    hubs = hubness(keys, values)
    scores: dict[int, float] = {}
    for value in sorted(set(values)):
        own = [unit(key) for key, its in zip(keys, values, strict=True) if its == value]
        weights = [math.exp(dot(unit(query), key) / temperature) for key in own]
        mean = [
            math.fsum(weight * key[i] for weight, key in zip(weights, own, strict=True))
            for i in range(len(query))
        ]
        scores[value] = dot(unit(query), unit(mean)) - hubness_correction * hubs[value]
    return scores


# A discriminant, row by row: every example is left out by computing everything without it.


def _left_out(
    rows: list[Array], labels: list[int], place: int, label: int, shrinkage: float, degrees: int
) -> tuple[Array, Array, Array]:
    """An example, the mean of a class and the metric, both without the example.

    Means and scatter are computed without the example. What it is centred by, the level that the
    covariance is shrunken towards and the degrees of freedom stay those of all examples.
    """
    dim = len(rows[0])
    level = _scatter(rows, labels, None).trace() / degrees / dim
    inside = _scatter(rows, labels, place) / degrees
    metric = np.linalg.inv((1 - shrinkage) * inside + shrinkage * level * np.eye(dim))
    others = [
        rows[i]
        for i in range(len(rows))
        if labels[i] == label and (i != place or _alone(labels, i))
    ]
    mean = np.mean(others, axis=0)
    return rows[place], mean, metric


Lengths = tuple[float, float, float, float]


def class_score(along: float, length: float, n: int, lengths: Lengths) -> float:
    """Between a cosine and the logit of linear discriminant analysis (Fisher 1936), of one class.

    Args:
        along: the length of the mean along the row.
        length: of the mean of n examples.
        lengths: mean lengths of means and rows; the expected square of an example's distance from
            its mean; the mean square of the true length of a mean.
    """
    of_means, of_rows, variance, typical = lengths
    weight = 0.5 * (n - 1) / n
    surplus = length**2 - variance / n - typical
    linear = (along - surplus / (2 * of_rows)) / of_means
    return (1 - weight) * along / length + weight * linear


def class_lengths(squares: list[float], counts: list[int], row: float, variance: float) -> Lengths:
    """What `class_score` takes, of means with these squared lengths."""
    typical = [square - variance / n for square, n in zip(squares, counts, strict=True)]
    of_means = sum(map(math.sqrt, squares)) / len(squares)
    return max(of_means, 0.1 * row), row, variance, sum(typical) / len(typical)


def left_out_lengths(
    rows: list[Array], labels: list[int], shrinkage: float, degrees: int
) -> tuple[float, float]:
    """The mean length of an example, and of the square of its distance from the mean of its class.

    Each in the metric without it, and for the distance from the true mean; every class has the same
    weight, and one of a single example none.
    """
    lengths, variances = [], []
    for label in sorted(set(labels)):
        n = labels.count(label)
        if n == 1:
            continue
        own = [place for place in range(len(rows)) if labels[place] == label]
        found = [_left_out(rows, labels, place, label, shrinkage, degrees) for place in own]
        lengths.append(sum(math.sqrt(x @ metric @ x) for x, _, metric in found) / n)
        apart = [(x - mean) @ metric @ (x - mean) for x, mean, metric in found]
        variances.append(sum(apart) / n * (n - 1) / n)
    return sum(lengths) / len(lengths), sum(variances) / len(variances)


def left_out_score(
    rows: list[Array],
    labels: list[int],
    place: int,
    label: int,
    shrinkage: float,
    degrees: int,
    lengths: Lengths,
) -> float:
    """Score of one example and the mean of a class, in the metric without the example."""
    x, mean, metric = _left_out(rows, labels, place, label, shrinkage, degrees)
    n = labels.count(label)
    if label == labels[place]:
        n = max(1, n - 1)
    along = float(x @ metric @ mean) / math.sqrt(x @ metric @ x)
    return class_score(along, math.sqrt(mean @ metric @ mean), n, lengths)


def _alone(labels: list[int], place: int) -> bool:
    return sum(label == labels[place] for label in labels) == 1


def _scatter(rows: list[Array], labels: list[int], left_out: int | None) -> Array:
    total: Array = np.zeros((len(rows[0]), len(rows[0])))
    for label in set(labels):
        own = [rows[i] for i in range(len(rows)) if labels[i] == label and i != left_out]
        for row in own:
            difference = row - np.mean(own, axis=0)
            total += np.outer(difference, difference)
    return total


def telling_columns(
    rows: list[Array], labels: list[int], left_out: int | None = None
) -> list[float]:
    """What a squared difference of each column counts, by all rows but one.

    The whole variance is that of all rows.
    """
    found = []
    for column in range(len(rows[0])):
        numbers = [row[column] for row in rows]
        whole = sum((x - np.mean(numbers)) ** 2 for x in numbers) / len(numbers)
        kept = [i for i in range(len(rows)) if i != left_out]
        within = 0.0
        for label in set(labels):
            own = [numbers[i] for i in kept if labels[i] == label]
            within += sum((x - np.mean(own)) ** 2 for x in own)
        variance = (within + whole) / (len(kept) - len(set(labels)) + 1)
        found.append(max(0.05, 1 - variance / whole) / variance)
    return found


def kernel_regression(
    rows: list[Array],
    labels: list[int],
    asked: Array,
    columns: list[float],
    asked_columns: list[float],
    width: float,
    ridge: float,
    weights: list[float],
    centres: list[Array],
    levels: list[float] | None = None,
) -> list[float]:
    """What is said of a row: a sum of kernels of some centres, and a level of each class.

    The level is 1 / C if it is not given.

    The sums of least squares, each over the weight of its row, and of ridge times the squared norm
    in the space of the kernel. Columns of the centres count as columns say; to the row that is
    asked about, as its own columns say.
    """
    classes = sorted(set(labels))
    level = levels or [1 / len(classes)] * len(classes)

    def kernel(x: Array, y: Array, counts: list[float]) -> float:
        return math.exp(
            -width * sum(c * (a - b) ** 2 for a, b, c in zip(x, y, counts, strict=True))
        )

    gram = np.array([[kernel(x, y, columns) for y in centres] for x in centres])
    total = ridge * gram
    sums = np.zeros((len(centres), len(classes)))
    for row, label, weight in zip(rows, labels, weights, strict=True):
        k = np.array([kernel(row, centre, columns) for centre in centres])
        total = total + np.outer(k, k) / weight
        for place, own in enumerate(classes):
            sums[:, place] += k * ((label == own) - level[place]) / weight
    # Where two centres are equal, any of the solutions says the same.
    duals = np.linalg.lstsq(total, sums, rcond=1e-14)[0]
    said = np.array([kernel(asked, centre, asked_columns) for centre in centres]) @ duals
    return [float(number) + own for number, own in zip(said, level, strict=True)]


def foreign_scores(
    row: Array,
    own: int,
    means: list[Array],
    counts: list[int],
    row_length: float,
    variance: float,
    shares: list[float] | None,
) -> list[float]:
    """The score of every class mean for a row, as if its own class had never been; -inf for that.

    All after centring by the mean of the others; with shares s a product with means that have a
    mean length of 1, less half of sum_i s_i m_i^2 (probabilistic linear discriminant analysis).
    """
    others = [mean for place, mean in enumerate(means) if place != own]
    centre = sum(others) / len(others)
    x = row - centre
    level = sum(_length(mean - centre) for mean in others) / len(others)
    squares = [_length(mean - centre) ** 2 for mean in others]
    left = [count for place, count in enumerate(counts) if place != own]
    lengths = class_lengths(squares, left, row_length, variance)
    scores = []
    for place, mean in enumerate(means):
        m = mean - centre
        product = sum(a * b for a, b in zip(x, m, strict=True)) / _length(x)
        if place == own:
            scores.append(-math.inf)
        elif shares is None:
            scores.append(class_score(product, _length(m), counts[place], lengths))
        else:
            weighted = sum(s * (a / level) ** 2 for s, a in zip(shares, m, strict=True))
            scores.append(product / level - weighted / 2)
    return scores


def _length(row: Array) -> float:
    return math.sqrt(sum(a * a for a in row))


def tuned_logits(
    query: Vector,
    keys: Vectors,
    values: list[int],
    k: int,
    temperature: float,
    host: Vector | None,
    host_score: float,
    classes: int,
) -> list[float | None]:
    """z_c of the blend over the k nearest keys, with p_host's logarithms for the first classes.

    None where nothing speaks for a class. Keys are scaled to length 1 (Ours).
    """
    scores = [dot(unit(query), unit(key)) for key in keys]
    nearest = sorted(range(len(keys)), key=lambda slot: -scores[slot])[:k]
    found: list[float | None] = []
    for number in range(classes):
        terms = [math.exp(scores[n] / temperature) for n in nearest if values[n] == number]
        of_host = host is not None and number < len(host)
        if of_host:
            terms.append(math.exp(host_score / temperature))
        z = math.log(math.fsum(terms)) if terms else None
        found.append(z + host[number] if of_host and host and z is not None else z)
    return found
