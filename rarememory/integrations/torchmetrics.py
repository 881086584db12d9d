"""The door to torchmetrics: accuracy by sighting, forgetting, and telling strangers apart."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from rarememory.base.validation import check_count


class _Mergeable(Metric):
    """A metric whose states add up, so that halves merge into the whole."""

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add what another has counted, as one process adds that of others."""
        if isinstance(incoming_state, Metric):
            incoming_state = incoming_state.metric_state
        self._reduce_states(incoming_state)
        # Otherwise what was computed before the merger would be given again.
        self._computed = None


class SightingAccuracy(_Mergeable):
    """Accuracy by how often a class had been seen before: the paper's protocol, batch by batch.

    For s = 0, 1, ..., n_sightings - 1

        accuracy[s] = sum [pred = target and seen = s] / sum [seen = s]

    so accuracy[K] is what "Learning to Remember Rare Events" calls K-shot (Kaiser et al. 2017,
    section 4.1). It is not a number where nothing was asked; what was seen oftener is not counted.

    Args:
        n_sightings: how many numbers to give.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: n_sightings is less than 1.

    Example:
        >>> accuracy = SightingAccuracy(n_sightings=3)
        >>> preds, target = torch.tensor([-1, 7, 4, 7]), torch.tensor([7, 7, 7, 7])
        >>> accuracy.update(preds, target, seen=torch.tensor([0, 1, 1, 2]))
        >>> accuracy.compute()
        tensor([0.0000, 0.5000, 1.0000])
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    hits: Tensor
    asked: Tensor

    def __init__(self, n_sightings: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("n_sightings", n_sightings)
        for name in ("hits", "asked"):
            self.add_state(name, torch.zeros(n_sightings, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        preds: Int[Tensor, "*batch"],
        target: Int[Tensor, "*batch"],
        seen: Int[Tensor, "*batch"],
    ) -> None:
        """Count a batch.

        Args:
            preds: what was answered, such as `memory(queries).prediction`.
            target: what is right.
            seen: how often the class of each had been seen before it was asked about.

        Raises:
            ValueError: the shapes differ, or a count is negative.
        """
        _check_shapes(preds=preds, target=target, seen=seen)
        _check_not_negative("seen", seen)
        counted = seen < len(self.asked)
        seen, right = seen[counted].long(), (preds == target)[counted]
        self.asked += torch.bincount(seen, minlength=len(self.asked))
        self.hits += torch.bincount(seen[right], minlength=len(self.hits))

    def compute(self) -> Float[Tensor, " n_sightings"]:
        """Accuracy at each number of sightings; torchmetrics makes a scalar of one alone."""
        return self.hits / self.asked


class Forgetting(_Mergeable):
    """How much accuracy on earlier tasks was lost by learning later ones.

    With a[l, j] the accuracy on task j after stage l of learning, and k the last stage in which
    anything was asked,

        forgetting = mean over tasks j of (max over l < k of a[l, j]) - a[k, j]

    (Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning"; the backward transfer of
    Lopez-Paz and Ranzato 2017 takes the stage in which j was learnt for the best, and turns the
    sign). The mean is over tasks that were asked about in stage k and in an earlier one: ask about
    a task only when it has been learnt, as the authors do, and the latest, which could not be
    forgotten yet, is not among them. It is in [-1, 1], negative if later learning helped, and not a
    number if there is no such task.

    Say `next_stage()` when learning goes on, on every process. A call of the metric itself counts
    the batch and returns not a number, for one batch has no earlier stage.

    Args:
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> forgetting = Forgetting()
        >>> right, wrong, first = torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([0, 0])
        >>> forgetting.update(right, right, task=first)  # all of the first task was known
        >>> forgetting.next_stage()  # a second task is learnt
        >>> forgetting.update(wrong, right, task=first)  # half of the first is known still
        >>> forgetting.update(right, right, task=first + 1)
        >>> forgetting.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = False
    # The stage is part of what an update counts.
    full_state_update = True

    stage: Tensor
    stages: list[Tensor]
    tasks: list[Tensor]
    right: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("stage", torch.tensor(0), dist_reduce_fx="max")
        # One number an example; floats, since those are what an idle process sends.
        for name in ("stages", "tasks", "right"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def next_stage(self) -> None:
        """A new stage of learning begins: what is asked from now on is asked after it."""
        self.stage = self.stage + 1

    def update(
        self,
        preds: Int[Tensor, "*batch"],
        target: Int[Tensor, "*batch"],
        task: Int[Tensor, "*batch"],
    ) -> None:
        """Count a batch, asked in the present stage.

        Args:
            preds: what was answered.
            target: what is right.
            task: the number of the task that each belongs to, in any order.

        Raises:
            ValueError: the shapes differ, or a task is negative.
        """
        _check_shapes(preds=preds, target=target, task=task)
        _check_not_negative("task", task)
        task = task.flatten().to(self.dtype)
        self.tasks.append(task)
        self.stages.append(self.stage.to(self.dtype).expand_as(task).clone())
        self.right.append((preds == target).flatten().to(self.dtype))

    def compute(self) -> Float[Tensor, ""]:
        """The mean loss of accuracy."""
        accuracy = self.accuracies()
        if len(accuracy) < 2:
            return accuracy.new_tensor(torch.nan)
        # A stage in which a task was not asked about says nothing of it.
        best = accuracy[:-1].nan_to_num(-torch.inf).amax(0)
        lost = best - accuracy[-1]
        return lost[lost.isfinite()].mean()

    def accuracies(self) -> Float[Tensor, "stages tasks"]:
        """Accuracy in each stage on each task that was asked about, in rising order of both."""
        stages, tasks, right = (_joined(each) for each in (self.stages, self.tasks, self.right))
        stage, row = stages.unique(return_inverse=True)
        task, column = tasks.unique(return_inverse=True)
        cells, shape = row * len(task) + column, (len(stage), len(task))
        hits = torch.bincount(cells, right, minlength=shape[0] * shape[1])
        asked = torch.bincount(cells, minlength=shape[0] * shape[1])
        return (hits / asked).view(shape)


class OpenSetAUROC(_Mergeable):
    """How well a score tells what is known from strangers: the area under the ROC curve.

    It is the chance that something known scores higher than a stranger,

        AUROC = P(score of known > score of stranger) + 1/2 P(they are equal)

    computed from ranks (Hanley and McNeil 1982; for open sets Hendrycks and Gimpel 2017): 1 if all
    known ones score higher, 0.5 if the score says nothing, not a number as long as one of the two
    kinds is missing. Any score will do, `recall.scores[:, 0]` too: only the order counts. (A
    `torchmetrics.classification.BinaryAUROC` squashes a batch that leaves [0, 1], and no other.)

    Args:
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> auroc = OpenSetAUROC()
        >>> auroc.update(torch.tensor([0.9, 0.4, -0.2]), known=torch.tensor([True, True, False]))
        >>> auroc.update(torch.tensor([0.7]), known=torch.tensor([False]))
        >>> auroc.compute()
        tensor(0.7500)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    known: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Both floats, since those are what an idle process sends.
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("known", [], dist_reduce_fx="cat")

    def update(self, scores: Float[Tensor, "*batch"], known: Bool[Tensor, "*batch"]) -> None:
        """Add a batch.

        Args:
            scores: how familiar each is, higher for more; -inf for what nothing resembles.
            known: whether its class had been learnt.

        Raises:
            ValueError: the shapes differ, or a score is not a number.
        """
        _check_shapes(scores=scores, known=known)
        if scores.isnan().any():
            raise ValueError(f"{int(scores.isnan().sum())} scores are not a number: leave them out")
        self.scores.append(scores.detach().flatten().to(self.dtype))
        self.known.append(known.flatten().to(self.dtype))

    def compute(self) -> Float[Tensor, ""]:
        """The area under the ROC curve."""
        scores, known = _joined(self.scores), _joined(self.known).bool()
        _, level, counts = scores.unique(return_inverse=True, return_counts=True)
        # Equal scores share the mean of their ranks, counted from 1.
        ranks = counts.cumsum(0).double() - (counts - 1) / 2
        n_known, n_strangers = known.sum(), (~known).sum()
        beaten = ranks[level][known].sum() - n_known * (n_known + 1) / 2
        area: Tensor = beaten / (n_known * n_strangers)
        return area.to(self.dtype)


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    """Many batches as one; torchmetrics itself joins them when processes meet."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0)


def _check_shapes(**tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"one number of each kind an example is needed, not {found}")


def _check_not_negative(name: str, numbers: Tensor) -> None:
    if (numbers < 0).any():
        raise ValueError(f"{name} counts from 0, and one is {int(numbers.min())}")
