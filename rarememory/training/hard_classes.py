"""Which classes look alike: asked of one memory of them all, kept through the whole training."""

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from rarememory.base.state import EMPTY
from rarememory.base.validation import check_count
from rarememory.memory import Memory


class HardClassSampler(nn.Module):
    """Chooses the classes of an episode so that some of them are hard to tell apart.

    A memory is for hard negatives (Kaiser et al. 2017, section 2: the nearest wrong key): here one
    holds every class that was ever trained on, and the classes that a key of it is nearest to meet
    in an episode. Its keys are as old as a class was last seen, which is good enough to choose by.

    Args:
        families: of every class; two classes of one family never meet. The turned and mirrored
            copies of a character may be the same drawing, and nothing tells those apart.
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
        names, places = families.unique(return_inverse=True)
        self.n_families = len(names)
        self.register_buffer("families", places, persistent=False)
        # The paper's policy gives a class a second slot when its first did not answer.
        self.memory = Memory(key_dim, 2 * len(families), seed=seed, validate=validate)

    def write(
        self,
        embeddings: Float[Tensor, "*batch key_dim"],
        classes: Int64[Tensor, "*batch"],
    ) -> None:
        """Remember what the classes look like now."""
        self.memory.write(embeddings.detach(), classes)

    def choose(
        self, n_way: int, *, group: int = 1, generator: Generator
    ) -> Int64[Tensor, " n_way"]:
        """So many classes of as many families, in groups of about so many that look alike.

        A group is a random class that is known and those whose keys are nearest to its own, of
        other families. What is missing, because groups meet or nothing is known yet, is random.

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
        """The first known classes of the order, each followed by its sampler; else EMPTY."""
        slots = self._slots()
        first = order[(slots[order] == EMPTY).int().argsort(stable=True)[:n_groups]]
        known = slots[first] != EMPTY
        # Its own slots and those of its family are near as well: more are looked up than needed.
        near = self.memory(self.memory.keys[slots[first]], k=8 * group, mask=known).values
        candidates = torch.cat([first.unsqueeze(1), near], dim=1)
        families = self.families[candidates].masked_fill(candidates == EMPTY, EMPTY)
        met = (families.unsqueeze(2) == families.unsqueeze(1)).tril(diagonal=-1).any(dim=2)
        kept = (candidates != EMPTY) & ~met
        return candidates.where(kept & (kept.cumsum(dim=1) <= group), EMPTY)

    def _slots(self) -> Int64[Tensor, " classes"]:
        """A slot of each class, EMPTY of those that have none."""
        values = self.memory.values
        slots = torch.full((len(self.families) + 1,), EMPTY, device=values.device)
        # What is empty goes to a place of its own, so that no shape depends on how many there are.
        place = values.where(values != EMPTY, len(self.families))
        slots.scatter_reduce_(0, place, torch.arange(len(values), device=values.device), "amax")
        return slots[:-1]

    def _first_of_families(
        self, classes: Int64[Tensor, " candidates"], n_way: int
    ) -> Int64[Tensor, " n_way"]:
        places = torch.arange(len(classes), device=classes.device)
        families = self.families[classes].where(classes != EMPTY, self.n_families)
        first = torch.full((self.n_families + 1,), len(classes), device=classes.device)
        first.scatter_reduce_(0, families, places, "amin")
        passed_over = (first[families] != places) | (classes == EMPTY)
        return classes[passed_over.int().argsort(stable=True)[:n_way]]
