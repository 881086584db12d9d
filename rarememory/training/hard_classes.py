"""Sampling classes that look alike, by one memory of all classes of a training."""

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from rarememory.base.state import EMPTY
from rarememory.base.validation import check_count
from rarememory.memory import Memory


class HardClassSampler(nn.Module):
    """Chooses the classes of an episode so that some of them are hard to tell apart.

    The memory holds every class trained on so far, by its keys of when it was last seen; classes
    whose keys are nearest to each other meet in an episode. (The same idea as the hard negatives
    within an episode, Kaiser et al. 2017, section 2: the nearest wrong key.)

    Args:
        families: of every class; two classes of one family never meet, since the rotated and
            mirrored copies of a character may be the same drawing.
        key_dim: width of the embeddings.
        seed: of the memory.
        validate: as in `Memory`; with False the host never waits for a GPU.

    Raises:
        ValueError: `key_dim` is less than 1.

    Example:
        >>> sampler = HardClassSampler(torch.arange(6), key_dim=2)
        >>> angles = torch.tensor([0.0, 0.1, 1.0, 1.1, 2.0, 2.1])
        >>> sampler.write(torch.stack([angles.cos(), angles.sin()], dim=1), torch.arange(6))
        >>> pairs = sampler.choose(4, group=2, generator=Generator()).view(2, 2)
        >>> (pairs // 2).T.diff(dim=0)
        tensor([[0, 0]])
    """

    families: Int64[Tensor, " classes"]

    def __init__(
        self,
        families: Int64[Tensor, " classes"],
        key_dim: int,
        *,
        seed: int = 0,
        validate: bool = True,
    ) -> None:
        super().__init__()
        names, numbers = families.unique(return_inverse=True)
        self.n_families = len(names)
        self.register_buffer("families", numbers, persistent=False)
        # The paper's policy gives a class a second slot when its first did not answer.
        self.memory = Memory(key_dim, 2 * len(families), seed=seed, validate=validate)

    def write(
        self,
        embeddings: Float[Tensor, "*batch key_dim"],
        classes: Int64[Tensor, "*batch"],
    ) -> None:
        """Remember the current embeddings of these classes."""
        self.memory.write(embeddings, classes)

    def choose(
        self, n_way: int, *, group: int = 1, generator: Generator
    ) -> Int64[Tensor, " n_way"]:
        """Choose n_way classes of as many families, in groups of classes that look alike.

        A group is a random class that has a key and those whose keys are nearest to it, of other
        families. Where groups share classes, or no class has a key yet, the rest is random.

        Args:
            n_way: classes to choose.
            group: classes of a group; 1 chooses all at random.
            generator: lives on the CPU.

        Raises:
            ValueError: `n_way` or `group` is less than 1, or there are fewer families than `n_way`.
        """
        check_count("n_way", n_way)
        check_count("group", group)
        if n_way > self.n_families:
            raise ValueError(
                f"n_way is {n_way}, but there are {self.n_families} families of classes: "
                f"ask for {self.n_families} or fewer"
            )
        chosen = torch.randperm(len(self.families), generator=generator)
        chosen = chosen.to(self.families.device, non_blocking=True)
        if group > 1:
            chosen = torch.cat([self._groups(chosen, n_way // group, group).flatten(), chosen])
        return self._first_of_families(chosen, n_way)

    def _groups(
        self, order: Int64[Tensor, " classes"], n_groups: int, group: int
    ) -> Int64[Tensor, "groups columns"]:
        """The first classes of the order that have a key, each before those nearest; else EMPTY."""
        slots = self._slots()
        first = order[(slots[order] == EMPTY).int().argsort(stable=True)[:n_groups]]
        has_key = slots[first] != EMPTY
        # Its own slots and those of its family are near as well: more are looked up than needed.
        near = self.memory(self.memory.keys[slots[first]], k=8 * group, mask=has_key).values
        candidates = torch.cat([first.unsqueeze(1), near], dim=1)
        families = self.families[candidates].masked_fill(candidates == EMPTY, EMPTY)
        repeated = (families.unsqueeze(2) == families.unsqueeze(1)).tril(diagonal=-1).any(dim=2)
        usable = (candidates != EMPTY) & ~repeated
        return candidates.where(usable & (usable.cumsum(dim=1) <= group), EMPTY)

    def _slots(self) -> Int64[Tensor, " classes"]:
        """A slot of each class, EMPTY of those that have none."""
        values = self.memory.values
        slots = torch.full((len(self.families) + 1,), EMPTY, device=values.device)
        # Empty slots go to a place of their own, so that no shape depends on their number.
        place = values.where(values != EMPTY, len(self.families))
        slots.scatter_reduce_(0, place, torch.arange(len(values), device=values.device), "amax")
        return slots[:-1]

    def _first_of_families(
        self, classes: Int64[Tensor, " candidates"], n_way: int
    ) -> Int64[Tensor, " n_way"]:
        """The first n_way classes, one of each family; EMPTY is passed over."""
        places = torch.arange(len(classes), device=classes.device)
        families = self.families[classes].where(classes != EMPTY, self.n_families)
        first = torch.full((self.n_families + 1,), len(classes), device=classes.device)
        first.scatter_reduce_(0, families, places, "amin")
        passed_over = (first[families] != places) | (classes == EMPTY)
        return classes[passed_over.int().argsort(stable=True)[:n_way]]
