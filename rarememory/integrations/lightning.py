"""Lightning: the accuracy of a memory on a module's features, logged at each validation."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.utilities.distributed import gather_all_tensors

from rarememory.base.validation import check_count
from rarememory.classifier.heads import last_linear
from rarememory.classifier.modes import evaluation_mode
from rarememory.evaluation.plots import plot_ages, plot_confusions, plot_embedding
from rarememory.memory import Memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
        raise ValueError(
            f"a batch must be (inputs, labels), not a {type(batch).__name__}{size}: give unpack="
        )
    return batch[0], batch[1]


class MemoryCallback(Callback):
    """Write the features of a support set into a memory, and log its accuracy on validation data.

    When a validation begins, the module's features of the support are written into a new memory, in
    one write. Each validation batch is then predicted by the nearest key, and the accuracy is
    logged as `memory/accuracy`, for `EarlyStopping` and `ModelCheckpoint` to monitor (one per
    loader, with Lightning's suffix, if there are several). Examples whose features are zero or not
    finite are not written, and count as wrong. The module needs a `validation_step`, which may do
    nothing. Modes, gradients and global random states are restored.

    The features of a validation batch are captured while `validation_step` runs; the module is
    called again only if the layer did not run exactly once on the whole batch. With several
    processes each encodes a part of the support, and all have the same memory. It works with
    trainers of `lightning` and of `pytorch_lightning`.

    Args:
        support: a loader; None for the training data. Its batches are divided among the processes,
            so it needs no distributed sampler. In the sanity check and in `trainer.validate` there
            is no training data: then nothing is logged.
        n_batches: how many of its batches to write, always the same ones; all if None. Of the
            training data, how many of each process.
        features: the name of the layer whose output is used; or a function of (module, inputs),
            such as `Encoder.embed`. If None, the input of the last Linear, as in `rarememory.wrap`,
            or the module's output if it has none. A map [batch, channels, height, width] is
            averaged over height and width.
        unpack: returns (inputs, labels) of a batch that is not a pair.
        memory: returns an empty memory of a key_dim; `Memory` with a slot per example if None.
        prefix: of the logged name.
        prog_bar: whether the progress bar shows it.
        stats: whether to log `memory.stats()` too, under the same prefix.
        plots: whether loggers that take pictures (TensorBoard, Weights & Biases) get those of
            `rarememory.evaluation.plots`: keys, ages, and confusions of the first process's part.
        save: whether checkpoints contain the memory.
        seed: of torch's random state while the support is loaded.

    Attributes:
        memory: the memory of the latest validation, or of a checkpoint; None before.

    Raises:
        ValueError: n_batches is less than 1; or, in a validation, the layer does not exist or run,
            features are not [batch, key_dim], a batch is no pair, its labels are not [batch], or
            the support is empty.

    Example:
        >>> class Module(LightningModule):
        ...     def forward(self, inputs):
        ...         return inputs
        ...
        ...     def validation_step(self, batch, index):
        ...         pass
        >>> support = [(torch.eye(2), torch.tensor([4, 6]))]
        >>> batches = iter([(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([4, 6]))])
        >>> callback = MemoryCallback(support)
        >>> trainer = Trainer(
        ...     accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False
        ... )
        >>> trainer.validate(Module(), batches, verbose=False)
        [{'memory/accuracy': 0.5}]
        >>> callback.memory.values
        tensor([4, 6])

        To stop when the accuracy no longer rises:

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
        stats: bool = False,
        plots: bool = False,
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
        self.stats = stats
        self.plots = plots
        self.save = save
        self.seed = seed
        self.memory: Memory | None = None
        self._skips = True
        self._hooks = ExitStack()
        self._captured: list[Any] = []
        self._answers: list[int] = []
        self._labels: list[int] = []

    # Hooks of Lightning

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.train_dataloader if self.support is None else self.support
        self._skips = loader is None
        self._answers, self._labels = [], []
        if not self._skips:
            self.memory = self._filled(loader, trainer, pl_module)
            if self.stats:
                numbers = self.memory.stats().items()
                found = {f"{self.prefix}/{name}": float(number) for name, number in numbers}
                pl_module.log_dict(found, sync_dist=True, batch_size=1)
        elif not trainer.sanity_checking:
            rank_zero_warn(
                "MemoryCallback logs nothing: no training data is loaded here, so give support="
            )

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any
    ) -> None:
        if callable(self.features):
            return
        # Some strategies run the step itself as a call of the module.
        if self._layer(pl_module)[0] is not pl_module:
            self._captured = self._hooks.enter_context(self._capturing(pl_module))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Predict the batch by the memory, and log the accuracy."""
        self._hooks.close()
        captured, self._captured = self._captured, []
        if self._skips or self.memory is None:
            return
        inputs, labels = self._unpacked(batch, pl_module)
        if [len(one) for one in captured if isinstance(one, Tensor)] == [len(labels)]:
            queries = self._valid_queries(captured[0])
        else:
            queries = self._features(inputs, trainer, pl_module)
        with torch.no_grad():
            predictions = self.memory(queries, k=1, mask=_nonzero(queries)).prediction
        pl_module.log(
            f"{self.prefix}/accuracy",
            (predictions == labels).float().mean(),
            prog_bar=self.prog_bar,
            sync_dist=True,
            batch_size=len(labels),
        )
        if self.plots:
            self._answers += predictions.tolist()
            self._labels += labels.tolist()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the memory and its answers, if asked for."""
        if not self.plots or self._skips or self.memory is None or not trainer.is_global_zero:
            return
        for name, ax in self._drawn(self.memory).items():
            for logger in trainer.loggers:
                key = f"{self.prefix}/{name}"
                experiment: Any = getattr(logger, "experiment", None)
                if hasattr(logger, "log_image"):
                    logger.log_image(key, [ax.figure], trainer.global_step)
                elif hasattr(experiment, "add_figure"):
                    experiment.add_figure(key, ax.figure, trainer.global_step)

    def _drawn(self, memory: Memory) -> "dict[str, Axes]":
        confusions = plot_confusions(self._answers, self._labels)
        drawn = {"ages": plot_ages(memory), "confusions": confusions}
        return drawn | ({"keys": plot_embedding(memory)} if len(memory) > 1 else {})

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._hooks.close()

    # The memory

    def _filled(self, loader: Any, trainer: Trainer, pl_module: LightningModule) -> Memory:
        # Tensors made in inference mode could not be written or trained under afterwards.
        with torch.inference_mode(False), torch.no_grad():
            with _repeatable(loader, self.seed) as batches:
                pairs = list(self._encoded(self._share(batches, trainer), trainer, pl_module))
            features, labels = _gathered(pairs, trainer, pl_module.device)
            if not len(labels):
                raise ValueError("the support of MemoryCallback has no examples: give at least 1")
            memory = self._new_memory(features.shape[1], len(labels)).to(pl_module.device)
            memory.write(features, labels, mask=_nonzero(features))
        return memory

    def _new_memory(self, key_dim: int, memory_size: int) -> Memory:
        make = self.make_memory
        return Memory(key_dim, memory_size) if make is None else make(key_dim)

    def _share(self, batches: Iterable[Any], trainer: Trainer) -> Iterator[Any]:
        """The batches that this process encodes."""
        if self.support is None:
            # Lightning has divided the training data already; its count may be infinite.
            counts = [n for n in (self.n_batches, trainer.num_training_batches) if n != math.inf]
            return islice(batches, min((int(n) for n in counts if n is not None), default=None))
        return islice(batches, trainer.global_rank, self.n_batches, trainer.world_size)

    def _encoded(
        self, batches: Iterable[Any], trainer: Trainer, pl_module: LightningModule
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.strategy.batch_to_device(batch)
            inputs, labels = self._unpacked(batch, pl_module)
            yield self._features(inputs, trainer, pl_module), labels

    def _unpacked(self, batch: Any, pl_module: LightningModule) -> tuple[Any, Tensor]:
        inputs, labels = self.unpack(batch)
        labels = torch.as_tensor(labels, device=pl_module.device)
        if labels.dim() != 1:
            raise ValueError(f"labels must be [batch], not {list(labels.shape)}: give unpack=")
        return inputs, labels

    # The features

    def _features(self, inputs: Any, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """The features of the inputs, in evaluation mode."""
        with (
            evaluation_mode(pl_module),
            torch.no_grad(),
            trainer.precision_plugin.val_step_context(),
        ):
            if callable(self.features):
                return self._valid_queries(self.features(pl_module, inputs))
            with self._capturing(pl_module) as captured:
                pl_module(inputs)
        if not captured:
            raise ValueError(f"the layer {self.features!r} did not run: name one that does")
        return self._valid_queries(captured[-1])

    def _valid_queries(self, features: Any) -> Tensor:
        if isinstance(features, Tensor) and features.dim() == 4:
            features = features.mean((2, 3))
        if not isinstance(features, Tensor) or features.dim() != 2:
            form = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"features must be [batch, key_dim], not {form}: name another layer with "
                "features=, or give a function of (module, inputs)"
            )
        return features.float()

    @contextmanager
    def _capturing(self, pl_module: LightningModule) -> Iterator[list[Any]]:
        captured: list[Any] = []
        layer, of_input = self._layer(pl_module)

        def capture(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any = None) -> None:
            captured.append([*args, *kwargs.values()][0] if of_input else output)

        register = layer.register_forward_pre_hook if of_input else layer.register_forward_hook
        hook = register(capture, with_kwargs=True)
        try:
            yield captured
        finally:
            hook.remove()

    def _layer(self, pl_module: LightningModule) -> tuple[nn.Module, bool]:
        """The layer of the features, and whether they are its input (or its output)."""
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


def _nonzero(features: Tensor) -> Tensor:
    """The rows that are finite and not zero."""
    return features.isfinite().all(1) & features.any(1)


def _gathered(
    pairs: list[tuple[Tensor, Tensor]], trainer: Trainer, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features and labels of the whole support, in the same order on every process."""
    if pairs:
        features, labels = (torch.cat(rows) for rows in zip(*pairs, strict=True))
    else:
        features = torch.zeros(0, 0, device=device)
        labels = torch.zeros(0, device=device, dtype=torch.int64)
    if trainer.world_size == 1:
        return features, labels
    # A process without batches does not know the width of the features.
    parts = [rows for rows in gather_all_tensors(features) if len(rows)] or [features]
    return torch.cat(parts), torch.cat(gather_all_tensors(labels))


@contextmanager
def _repeatable(loader: Any, seed: int) -> Iterator[Any]:
    """The loader, in the same order every time, without effect on others that iterate over it.

    Persistent workers restart for all iterators, so the copy gets its own; the state of a generator
    that shuffles is restored.
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
