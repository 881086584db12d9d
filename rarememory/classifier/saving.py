"""A classifier in a file: what is read of it, checked, and put into a classifier."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rarememory.base.files import StrPath
from rarememory.classifier.beside_keys import (
    BUFFERS,
    NORMS,
    buffers_of,
    check_buffers,
    match_buffers,
)
from rarememory.classifier.checkpoints import own_tensors, part_of, rename_old
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.invariants import (
    check_book,
    check_complete,
    check_ensembler,
    check_fingerprint,
    check_header,
)
from rarememory.classifier.memory_settings import empty_memory
from rarememory.classifier.outputs import Output, stored_output
from rarememory.classifier.persistence import read_file
from rarememory.classifier.tuned_keys import check_untuned
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.updates import Update


class ClassifierFile(NamedTuple):
    """What is in a file of a classifier.

    Attributes:
        path: of the file.
        tensors: of memory and ensembler, by their present names; and the fingerprint.
        header: everything else, as JSON.
    """

    path: StrPath
    tensors: dict[str, Tensor]
    header: dict[str, Any]

    @classmethod
    def read(cls, path: StrPath) -> "ClassifierFile":
        """Read a file, and check what can be checked before there is a classifier.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
            ValueError: it is truncated, damaged, of another format or newer.
        """
        tensors, header = read_file(path)
        rename_old(tensors)
        with refusals_of(path):
            check_header(header)
            check_complete(part_of(tensors, "memory."), part_of(tensors, "ensembler."))
        return cls(path, tensors, header)

    def options(
        self,
        model: nn.Module | None,
        output: Output | None,
        update: Update | None,
        lookup: str | Lookup,
        memory_class: type[Memory] | None,
    ) -> dict[str, Any]:
        """Arguments of a `MemoryClassifier` that this fits; they are those of `load`.

        Raises:
            ValueError: the file has what no memory has, or what has to be given is not.
        """
        host, n_host = self.header["host"], len(self.tensors["ensembler.host_ids"])
        with refusals_of(self.path):
            of_memory = part_of(self.tensors, "memory.")
            memory = empty_memory(self.header, of_memory, update, lookup, memory_class)
        # Nobody has seen yet whether a guess is right: guess again.
        guessed = host.get("guessed", False) and model is not None
        return {
            "model": missing_model(host["at"]) if model is None else model,
            "at": None if guessed else host["at"],
            "host": host["answers"],
            "output": stored_output(host, output),
            "classes": range(n_host) if host["answers"] else None,
            "memory": memory,
            "batch_size": self.header["batch_size"],
        }

    def fill(self, memory: Memory, ensembler: Ensembler) -> None:
        """Put the tensors into those of a classifier, after all of them and the book were checked.

        Raises:
            ValueError: they do not fit, or no classifier has them.
        """
        own = own_tensors(memory, ensembler)
        check_shapes(own, self.tensors, self.path)
        of_memory = part_of(self.tensors, "memory.")
        of_ensembler = part_of(self.tensors, "ensembler.")
        with refusals_of(self.path):
            memory.check_stored(of_memory)
            check_buffers(of_memory)
            check_untuned(of_memory)
            check_ensembler(of_ensembler)
            check_book(self.header["book"], of_memory["values"], of_ensembler["host_ids"])
            check_fingerprint(self.tensors.get("fingerprint"))
            copy_tensors(own, self.tensors)
        # Of a version that did not remember how sure a host was, or its highest logit.
        if NORMS in buffers_of(memory):
            match_buffers(memory, BUFFERS)


def check_shapes(own: dict[str, Tensor], stored: dict[str, Tensor], path: StrPath) -> None:
    """Refuse what was stored if it does not fit our own tensors.

    Raises:
        ValueError: a tensor is missing, or has another shape.
    """
    for name, tensor in own.items():
        if name not in stored or stored[name].shape != tensor.shape:
            there = list(stored[name].shape) if name in stored else "nothing"
            raise ValueError(
                f"{str(path)!r} has {there} for {name}, and it must be {list(tensor.shape)}: the "
                "file is damaged, or belongs to another model"
            )


@torch.no_grad()
def copy_tensors(own: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Copy what was stored, and has been checked, into our own tensors."""
    for name, tensor in own.items():
        tensor.copy_(stored[name])


@contextmanager
def refusals_of(path: StrPath) -> Iterator[None]:
    """Say of whatever is refused in the block which file it is of, in a sentence."""
    try:
        yield
    except ValueError as error:
        # It may quote a text of the file, which may be long.
        raise ValueError(f"{str(path)!r} cannot be loaded: {str(error)[:400]}") from error


class _MissingModel(nn.Module):
    def forward(self, _: Any) -> Tensor:
        raise ValueError("this classifier was loaded without its model, and cannot take inputs")


def missing_model(at: str | None) -> nn.Module:
    """A model that refuses every input, with a layer of this name."""
    model = layer = _MissingModel()
    for name in at.split(".") if at else ():
        layer.add_module(name, deeper := _MissingModel())
        layer = deeper
    return model
