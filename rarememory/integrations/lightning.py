"""The door to Lightning: what a memory would know from a module's features, at each validation."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.utilities.distributed import gather_all_tensors

from rarememory.base.validation import check_count
from rarememory.classifier.feature_extractor import evaluation_mode, last_linear
from rarememory.memory import Memory


def _inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """The batch as it is, if it is a pair.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
        raise ValueError(
            f"a batch must be (inputs, labels), not a {type(batch).__name__}{size}: give unpack="
        )
    return batch[0], batch[1]


class MemoryCallback(Callback):
    """At each validation: remember the features of some examples, and log how many others it knows.

    When a validation begins, the module's features of the support are written into a fresh memory,
    with one write, so that their order does not matter; then every validation batch is asked, and
    `memory/accuracy`, the part whose nearest key has their label, is logged for `EarlyStopping` and
    `ModelCheckpoint` to monitor; with several validation loaders one a loader, named as Lightning
    does. An example whose features are zero or not finite is neither remembered nor known. The
    module needs a `validation_step` (one that does nothing will do). Modes, gradients and the
    global random states are left as they were.

    The features of a validation batch are those that the layer saw while `validation_step` ran; the
    module is called again only if the layer did not run then, or not once for the whole batch, or
    if there is no layer to listen at. With several processes each encodes a part of the support,
    and all have the same memory. Trainers of `lightning` and of `pytorch_lightning` both take it.

    Args:
        support: a loader; None for the training data. It is shared out over the processes batch by
            batch, so it needs no distributed sampler. There is no training data yet in the sanity
            check, and none in `trainer.validate`: then the callback rests.
        n_batches: how many of its batches to remember, always the same ones as far as `seed` says;
            all if None. Of the training data, how many of each process's share.
        features: the name of the layer whose output they are; or what makes them of
            (module, inputs), such as `Encoder.embed`. If None, what enters the last Linear, as in
            `rarememory.wrap`, or the module's own output if it has none. A map
            [batch, channels, height, width] is averaged over its places.
        unpack: makes (inputs, labels) of a batch that is not a pair.
        memory: makes an empty memory of a key_dim; `Memory` with a slot for each example if None.
        prefix: of what is logged.
        prog_bar: whether the progress bar shows it.
        save: whether checkpoints hold the memory; otherwise nothing of it enters one.
        seed: of torch's random state while the support is loaded.

    Attributes:
        memory: what the latest validation filled, or a checkpoint held; None before.

    Raises:
        ValueError: n_batches is less than 1; and, in a validation, there is no such layer, or it
            does not run, features are not [batch, key_dim], a batch is no pair, its labels are not
            [batch], or the support is empty.

    Example:
        >>> class Module(LightningModule):
        ...     def forward(self, inputs):
        ...         return inputs
        ...
        ...     def validation_step(self, batch, index):
        ...         pass
        >>> support = [(torch.eye(2), torch.tensor([4, 6]))]
        >>> batches = iter([(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([4, 6]))])
        >>> known = MemoryCallback(support)
        >>> trainer = Trainer(
        ...     accelerator="cpu", callbacks=[known], logger=False, enable_progress_bar=False
        ... )
        >>> trainer.validate(Module(), batches, verbose=False)
        [{'memory/accuracy': 0.5}]
        >>> known.memory.values
        tensor([4, 6])

        To stop when the memory knows no more than before:

        >>> from lightning.pytorch.callbacks import EarlyStopping
        >>> patience = EarlyStopping(monitor="memory/accuracy", mode="max")
    """

    def __init__(
        self,
        support: Iterable[Any] | None = None,
        *,
        n_batches: int | None = None,
        features: str | Callable[[Any, Any], Tensor] | None = None,
        unpack: Callable[[Any], tuple[Any, Any]] = _inputs_and_labels,
        memory: Callable[[int], Memory] | None = None,
        prefix: str = "memory",
        prog_bar: bool = False,
        save: bool = False,
        seed: int = 0,
    ) -> None:
        if n_batches is not None:
            check_count("n_batches", n_batches)
        self.support = support
        self.n_batches = n_batches
        self.features = features
        self.unpack = unpack
        self.make_memory = memory
        self.prefix = prefix
        self.prog_bar = prog_bar
        self.save = save
        self.seed = seed
        self.memory: Memory | None = None
        self._rests = True
        self._step = ExitStack()
        self._caught: list[Any] = []

    # What Lightning calls

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.train_dataloader if self.support is None else self.support
        self._rests = loader is None
        if not self._rests:
            self.memory = self._filled(loader, trainer, pl_module)
        elif not trainer.sanity_checking:
            rank_zero_warn(
                "MemoryCallback rests: no training data is loaded here, so give support="
            )

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        if callable(self.features):
            return
        # Not at the module itself: some strategies run the step as a call of it, too.
        if self._layer(pl_module)[0] is not pl_module:
            self._caught = self._step.enter_context(self._listening(pl_module))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask the memory about the batch, unless there is none, and log how much it knows.

        Raises:
            ValueError: the batch is no pair, its labels are not [batch], the layer is missing or
                did not run, or features are not [batch, key_dim].
        """
        self._step.close()
        caught, self._caught = self._caught, []
        if self._rests or self.memory is None:
            return
        inputs, labels = self._unpacked(batch, pl_module)
        if len(caught) == 1 and isinstance(caught[0], Tensor) and len(caught[0]) == len(labels):
            queries = self._checked(caught[0])
        else:
            queries = self._made(inputs, trainer, pl_module)
        with torch.no_grad():
            answers = self.memory(queries, k=1, mask=_usable(queries)).prediction
        pl_module.log(
            f"{self.prefix}/accuracy",
            (answers == labels).float().mean(),
            prog_bar=self.prog_bar,
            sync_dist=True,
            batch_size=len(labels),
        )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._step.close()

    # The memory

    def _filled(self, loader: Any, trainer: Trainer, pl_module: LightningModule) -> Memory:
        # Not in inference mode, so that the memory may be written and trained under afterwards.
        with torch.inference_mode(False), torch.no_grad():
            with _aside(loader, self.seed) as batches:
                pairs = list(self._encoded(self._share(batches, trainer), trainer, pl_module))
            features, labels = _of_all_processes(pairs, trainer, pl_module.device)
            if not len(labels):
                raise ValueError("MemoryCallback needs examples to remember, and its support has 0")
            memory = self._new_memory(features.shape[1], len(labels)).to(pl_module.device)
            memory.write(features, labels, mask=_usable(features))
        return memory

    def _new_memory(self, key_dim: int, memory_size: int) -> Memory:
        return (
            Memory(key_dim, memory_size) if self.make_memory is None else self.make_memory(key_dim)
        )

    def _share(self, batches: Iterable[Any], trainer: Trainer) -> Iterator[Any]:
        """The batches that this process has to encode."""
        if self.support is None:
            # Lightning has shared the training data out already.
            count = min(self.n_batches or float("inf"), trainer.num_training_batches)
            return islice(batches, None if count == float("inf") else int(count))
        return islice(batches, trainer.global_rank, self.n_batches, trainer.world_size)

    def _encoded(
        self, batches: Iterable[Any], trainer: Trainer, pl_module: LightningModule
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.strategy.batch_to_device(batch)
            inputs, labels = self._unpacked(batch, pl_module)
            yield self._made(inputs, trainer, pl_module), labels

    def _unpacked(self, batch: Any, pl_module: LightningModule) -> tuple[Any, Tensor]:
        inputs, labels = self.unpack(batch)
        labels = torch.as_tensor(labels, device=pl_module.device)
        if labels.dim() != 1:
            raise ValueError(f"labels must be [batch], not {list(labels.shape)}: give unpack=")
        return inputs, labels

    # The features

    def _made(self, inputs: Any, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """What the module makes of the inputs, in evaluation mode."""
        with (
            evaluation_mode(pl_module),
            torch.no_grad(),
            trainer.precision_plugin.val_step_context(),
        ):
            if callable(self.features):
                return self._checked(self.features(pl_module, inputs))
            with self._listening(pl_module) as caught:
                pl_module(inputs)
        if not caught:
            raise ValueError(f"the layer {self.features!r} did not run: name one that does")
        return self._checked(caught[-1])

    def _checked(self, features: Any) -> Tensor:
        if isinstance(features, Tensor) and features.dim() == 4:
            features = features.mean((2, 3))
        if not isinstance(features, Tensor) or features.dim() != 2:
            form = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"features must be [batch, key_dim], not {form}: name another layer with "
                "features=, or give what makes them of (module, inputs)"
            )
        return features.float()

    @contextmanager
    def _listening(self, pl_module: LightningModule) -> Iterator[list[Any]]:
        caught: list[Any] = []
        layer, entering = self._layer(pl_module)

        def catch(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any = None) -> None:
            caught.append(next(iter([*args, *kwargs.values()])) if entering else output)

        listen = layer.register_forward_pre_hook if entering else layer.register_forward_hook
        hook = listen(catch, with_kwargs=True)
        try:
            yield caught
        finally:
            hook.remove()

    def _layer(self, pl_module: LightningModule) -> tuple[nn.Module, bool]:
        """The layer to listen at, and whether features are what enters it, or what leaves it."""
        if self.features is None:
            head = last_linear(pl_module)
            return (pl_module, False) if head is None else (head[1], True)
        layers = dict(pl_module.named_modules())
        if self.features not in layers:
            some = ", ".join(repr(name) for name in list(layers)[-3:] if name)
            raise ValueError(
                f"{type(pl_module).__name__} has no layer {self.features!r}; its last are {some}"
            )
        return layers[self.features], False

    # Checkpoints

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}(prefix={self.prefix!r})"

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()} if self.save and self.memory is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "memory" in state_dict:
            memory_size, key_dim = state_dict["memory"]["keys"].shape
            self.memory = self._new_memory(key_dim, memory_size)
            self.memory.load_state_dict(state_dict["memory"])


def _usable(features: Tensor) -> Tensor:
    """The rows that have a direction."""
    return features.isfinite().all(1) & features.any(1)


def _of_all_processes(
    pairs: list[tuple[Tensor, Tensor]], trainer: Trainer, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features and labels of the whole support, the same on every process."""
    if pairs:
        features, labels = (torch.cat(rows) for rows in zip(*pairs, strict=True))
    else:
        features = torch.zeros(0, 0, device=device)
        labels = torch.zeros(0, device=device, dtype=torch.int64)
    if trainer.world_size == 1:
        return features, labels
    # A process that had nothing to encode does not know how wide features are.
    parts = [rows for rows in gather_all_tensors(features) if len(rows)] or [features]
    return torch.cat(parts), torch.cat(gather_all_tensors(labels))


@contextmanager
def _aside(loader: Any, seed: int) -> Iterator[Any]:
    """The loader, gone through in the same order every time, and beside whoever else is at it.

    Persistent workers begin anew for everybody when anybody begins, so these are others; and a
    generator that shuffles goes on afterwards from where it was.
    """
    owners = (loader, getattr(loader, "sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    before = [(generator, generator.get_state()) for generator in generators if generator]
    if isinstance(loader, DataLoader):
        loader = copy(loader)
        loader._iterator = None
    with isolate_rng():
        torch.manual_seed(seed)
        for generator, _ in before:
            generator.manual_seed(seed)
        try:
            yield loader
        finally:
            for generator, state in before:
                generator.set_state(state)
