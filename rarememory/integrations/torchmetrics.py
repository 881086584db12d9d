"""torchmetrics: accuracy by sighting, forgetting, and AUROC for unknown classes."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from rarememory.base.validation import check_count


class _Mergeable(Metric):
    """A metric whose states of two parts of the data merge into that of the whole."""

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add the state of another metric, as processes do when they synchronise."""
        if isinstance(incoming_state, Metric):
            incoming_state = incoming_state.metric_state
        self._reduce_states(incoming_state)
        # Otherwise `compute` would return its cached result.
        self._computed = None


class SightingAccuracy(_Mergeable):
    """Accuracy by how often a class had been seen before, the protocol of the paper.

    accuracy[s] = sum [pred = target and seen = s] / sum [seen = s] for s = 0 ... n_sightings - 1,
    so accuracy[K] is what Kaiser et al. 2017, section 4.1, call K-shot. It is NaN where there was
    no such query; queries of classes that were seen more often are not counted.

    Args:
        n_sightings: length of the result.
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
    total: Tensor

    def __init__(self, n_sightings: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("n_sightings", n_sightings)
        for name in ("hits", "total"):
            self.add_state(name, torch.zeros(n_sightings, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        preds: Int[Tensor, "*batch"],
        target: Int[Tensor, "*batch"],
        seen: Int[Tensor, "*batch"],
    ) -> None:
        """Count a batch.

        Args:
            preds: predictions, such as `memory(queries).prediction`.
            target: true labels.
            seen: how often each query's class had been seen before the query.

        Raises:
            ValueError: the shapes differ, or a count is negative.
        """
        _check_shapes(preds=preds, target=target, seen=seen)
        _check_not_negative("seen", seen)
        counted = seen < len(self.total)
        seen, correct = seen[counted].long(), (preds == target)[counted]
        self.total += torch.bincount(seen, minlength=len(self.total))
        self.hits += torch.bincount(seen[correct], minlength=len(self.hits))

    def compute(self) -> Float[Tensor, " n_sightings"]:
        """Accuracy per number of sightings; torchmetrics makes a scalar of a single one."""
        return self.hits / self.total


class Forgetting(_Mergeable):
    """The accuracy on earlier tasks that was lost by learning later ones.

    forgetting = mean over tasks j of (max over l < k of a[l, j]) - a[k, j], with a[l, j] the
    accuracy on task j after stage l of learning, and k the last stage with an update (Chaudhry et
    al. 2018, "Riemannian Walk for Incremental Learning"). The mean is over tasks with updates in
    stage k and in an earlier one. It is in [-1, 1], negative if later learning helped, and NaN if
    there is no such task.

    Call `next_stage()` on every process before learning goes on. Calling the metric itself counts
    the batch and returns NaN, since one batch has no earlier stage.

    Args:
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> forgetting = Forgetting()
        >>> target, preds, first = torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([0, 0])
        >>> forgetting.update(target, target, task=first)  # all of the first task is right
        >>> forgetting.next_stage()  # a second task is learnt
        >>> forgetting.update(preds, target, task=first)  # half of the first is still right
        >>> forgetting.update(target, target, task=first + 1)
        >>> forgetting.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = False
    # An update depends on the stage, which is a state.
    full_state_update = True

    stage: Tensor
    stages: list[Tensor]
    tasks: list[Tensor]
    correct: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("stage", torch.tensor(0), dist_reduce_fx="max")
        # Floats, since a process without updates sends an empty float tensor.
        for name in ("stages", "tasks", "correct"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def next_stage(self) -> None:
        """Begin a new stage of learning; later updates belong to it."""
        self.stage = self.stage + 1

    def update(
        self,
        preds: Int[Tensor, "*batch"],
        target: Int[Tensor, "*batch"],
        task: Int[Tensor, "*batch"],
    ) -> None:
        """Count a batch in the current stage.

        Args:
            preds: predictions.
            target: true labels.
            task: the number of each example's task.

        Raises:
            ValueError: the shapes differ, or a task is negative.
        """
        _check_shapes(preds=preds, target=target, task=task)
        _check_not_negative("task", task)
        task = task.flatten().to(self.dtype)
        self.tasks.append(task)
        self.stages.append(self.stage.to(self.dtype).expand_as(task).clone())
        self.correct.append((preds == target).flatten().to(self.dtype))

    def compute(self) -> Float[Tensor, ""]:
        """The mean lost accuracy."""
        accuracy = self.accuracies()
        if len(accuracy) < 2:
            return accuracy.new_tensor(torch.nan)
        # Accuracy is NaN in a stage without examples of the task.
        best = accuracy[:-1].nan_to_num(-torch.inf).amax(0)
        lost = best - accuracy[-1]
        return lost[lost.isfinite()].mean()

    def accuracies(self) -> Float[Tensor, "stages tasks"]:
        """Accuracy per stage and task, both in rising order, of those with updates."""
        stages, tasks, correct = (_joined(s) for s in (self.stages, self.tasks, self.correct))
        stage, row = stages.unique(return_inverse=True)
        task, column = tasks.unique(return_inverse=True)
        cells, shape = row * len(task) + column, (len(stage), len(task))
        hits = torch.bincount(cells, correct, minlength=shape[0] * shape[1])
        total = torch.bincount(cells, minlength=shape[0] * shape[1])
        return (hits / total).view(shape)


class OpenSetAUROC(_Mergeable):
    """How well a score separates known from unknown examples: the area under the ROC curve.

    AUROC = P(score of known > score of unknown) + P(they are equal) / 2, computed from ranks
    (Hanley and McNeil 1982; for open sets Hendrycks and Gimpel 2017). NaN while one of the two is
    missing. Scores may have any range, as `recall.scores[:, 0]`: only their order counts.
    (`torchmetrics.classification.BinaryAUROC` applies a sigmoid to batches that leave [0, 1], and
    to no others.)

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
        # Floats, since a process without updates sends an empty float tensor.
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("known", [], dist_reduce_fx="cat")

    def update(self, scores: Float[Tensor, "*batch"], known: Bool[Tensor, "*batch"]) -> None:
        """Add a batch.

        Args:
            scores: higher for a known class; -inf if nothing is remembered.
            known: whether the class had been learnt.

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
        n_known, n_unknown = known.sum(), (~known).sum()
        below = ranks[level][known].sum() - n_known * (n_known + 1) / 2
        area: Tensor = below / (n_known * n_unknown)
        return area.to(self.dtype)


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    """All batches in one tensor; torchmetrics concatenates them itself when it synchronises."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0)


def _check_shapes(**tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"the shapes must be the same, not {found}")


def _check_not_negative(name: str, numbers: Tensor) -> None:
    if (numbers < 0).any():
        raise ValueError(f"{name} counts from 0, and one is {int(numbers.min())}")
