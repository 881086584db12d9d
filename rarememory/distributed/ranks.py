"""What processes tell each other: one that fails says so, and all raise where they would wait."""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor, distributed

Own = TypeVar("Own")
Words = Int64[Tensor, "rows words"]
_FINE, _FAILED, _INVALID = 1, 0, 2


class Ranks:
    """The processes of a group; a program without one is a group of one process.

    Every exchange is given what this process has to compute for it. If that fails on one, the
    others learn so in the same exchange, and all raise: it the error itself, the others a
    ValueError if it is one, and a RuntimeError if not.

    Args:
        device: of what is exchanged.
        group: the default group if None.

    Example:
        >>> ranks = Ranks(torch.device("cpu"))
        >>> ranks.size, ranks.tell(lambda: ("mine", [1, 2]), 2)
        (1, ('mine', [[1, 2]]))
    """

    def __init__(self, device: torch.device, group: distributed.ProcessGroup | None = None) -> None:
        started = is_started()
        self.device, self.group = device, group
        self._room = 0
        self.size = distributed.get_world_size(group) if started else 1
        self.own = distributed.get_rank(group) if started else 0

    def tell(
        self, work: Callable[[], tuple[Own, list[int]]], count: int
    ) -> tuple[Own, list[list[int]]]:
        """What this process finds, and the numbers, so many each, of all processes."""
        found: list[Own] = []

        def numbers() -> Tensor:
            own, numbers = work()
            found.append(own)
            return torch.tensor(numbers, device=self.device, dtype=torch.int64)

        every = self.gather(numbers, count).tolist()
        return found[0], every

    def tell_rows(
        self, work: Callable[[], tuple[Own, list[int], Words]], count: int, words: int
    ) -> tuple[Own, list[list[int]], list[int], Words]:
        """As `tell`, with rows of so many words: how many each process has, and those of all.

        Rows travel with the numbers, in room for as many as there were before. Only more of them
        take an exchange of their own.
        """
        found: list[tuple[Own, Words]] = []
        room = self._room

        def block() -> Tensor:
            own, numbers, rows = work()
            found.append((own, rows))
            sent = rows.new_zeros(1 + count + room * words)
            sent[: 1 + count] = rows.new_tensor([len(rows), *numbers])
            if len(rows) <= room:
                sent[1 + count : 1 + count + rows.numel()] = rows.view(-1)
            return sent

        every = self.gather(block, 1 + count + room * words)
        told = every[:, : 1 + count].tolist()
        counts = [counted for counted, *_ in told]
        ((own, rows),) = found
        if max(counts) > room:
            rows = self.gather_rows(rows, counts)
        else:
            parts = every[:, 1 + count :].reshape(self.size, room, words)
            rows = torch.cat([part[:counted] for part, counted in zip(parts, counts, strict=True)])
        self._room = max(counts) or room
        return own, [numbers for _, *numbers in told], counts, rows

    def gather(self, work: Callable[[], Tensor], count: int) -> Words:
        """So many words of each process."""
        block, error = self._block(work, 0, count)
        found = block.new_empty(self.size, len(block))
        if self.size > 1:
            distributed.all_gather_into_tensor(found.view(-1), block, group=self.group)
        else:
            found[0] = block
        self._check(found[:, 0], error)
        return found[:, 1:]

    def gather_rows(self, rows: Words, counts: list[int]) -> Words:
        """The rows of every process, of which there are so many, one after the other.

        They are gathered with padding: not every backend takes uneven sizes.
        """
        most, words = max(counts), rows.shape[1]
        padded = rows.new_zeros(most, words)
        padded[: len(rows)] = rows
        every = self.gather(lambda: padded, most * words).reshape(self.size, most, words)
        return torch.cat([some[:count] for some, count in zip(every, counts, strict=True)])

    def total(self, work: Callable[[], Tensor], count: int) -> Int64[Tensor, " words"]:
        """The sum of so many words of each process."""
        block, error = self._block(work, self.own, self.size - 1 + count, self.size)
        if self.size > 1:
            distributed.all_reduce(block, group=self.group)
        self._check(block[: self.size], error)
        return block[self.size :]

    def exchange(
        self, work: Callable[[], Tensor], sent: list[int], received: list[int], words: int
    ) -> Words:
        """The rows that each process has for this one; so many are sent to each."""
        error: Exception | None = None
        # In front of the rows for each process there is one that says how it went.
        states = torch.full((self.size, words), _FINE, device=self.device)
        try:
            rows = work().split(sent)
        except Exception as failed:
            error, states = failed, states.fill_(_state_of(failed))
            rows = states.new_zeros(sum(sent), words).split(sent)
        pairs = zip(states.split(1), rows, strict=True)
        mixed = torch.cat([part for pair in pairs for part in pair])
        outgoing, incoming = ([1 + count for count in counts] for counts in (sent, received))
        found = mixed.new_empty(sum(incoming), words)
        distributed.all_to_all_single(found, mixed, incoming, outgoing, group=self.group)
        parts = found.split(incoming)
        self._check(torch.stack([part[0, 0] for part in parts]), error)
        return torch.cat([part[1:] for part in parts])

    def _block(
        self, work: Callable[[], Tensor], place: int, count: int, begin: int = 1
    ) -> tuple[Tensor, Exception | None]:
        """Zeros, the state of this process at its place, and what it has from `begin` on."""
        block = torch.zeros(1 + count, device=self.device, dtype=torch.int64)
        try:
            block[begin:] = work().reshape(-1)
            block[place] = _FINE
        except Exception as error:
            block[place] = _state_of(error)
            return block, error
        return block, None

    def _check(self, states: Tensor, error: Exception | None) -> None:
        """Raise the error of this process, or tell of that of another."""
        if error is not None:
            raise error
        failed = [(rank, state) for rank, state in enumerate(states.tolist()) if state != _FINE]
        if failed:
            kind = ValueError if all(state == _INVALID for _, state in failed) else RuntimeError
            raise kind(f"process {failed[0][0]} could not do its part, and says why")


def is_started() -> bool:
    """Whether this process is one of a group."""
    return distributed.is_available() and distributed.is_initialized()


def device_of_group() -> torch.device:
    """Where the processes tell each other: NCCL moves what lies on the GPU only."""
    on_gpu = is_started() and distributed.get_backend() == "nccl"
    return device_of_kind("cuda" if on_gpu else "cpu")


def device_of_kind(kind: str) -> torch.device:
    """The device of this process, of those of this kind."""
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def _state_of(error: Exception) -> int:
    return _INVALID if isinstance(error, ValueError) else _FAILED
