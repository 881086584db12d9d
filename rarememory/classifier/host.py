"""The host: somebody's model, of which we take the features and, if it is a classifier, answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Host(nn.Module):
    """A model, and the layer that it is listened to at; what enters that layer are the features.

    The model is called as it is. A hook is on the layer during the call alone, so the model is
    neither patched nor changed and can be taken back at any time.

    Args:
        model: any module.
        at: name of the layer whose input is taken; None for the model's own output.
        answers: whether the model's output are logits of classes of its own.
    """

    def __init__(self, model: nn.Module, at: str | None, answers: bool) -> None:
        super().__init__()
        self.model = model
        self.at = at
        self.answers = answers

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Features [batch, key_dim], in float32 or wider, and logits [batch, n_host] if any.

        A map of features [batch, channels, height, width] is averaged over its places. Inputs in a
        dict are the model's arguments by name.
        """
        caught: list[Tensor] = []
        with self._listening(caught):
            output = self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)
        # Models of Hugging Face answer with an object.
        output = getattr(output, "logits", output)
        if self.at is None:
            caught = [output]
        if not caught:
            raise ValueError(f"the layer {self.at!r} did not run: name one that does, with at=")
        features = caught[-1].mean((2, 3)) if caught[-1].dim() == 4 else caught[-1]
        if features.dim() != 2:
            raise ValueError(
                f"features must be [batch, key_dim], and {self.at or 'the output'!r} gives "
                f"{list(features.shape)}: name another layer with at="
            )
        return features, output if self.answers else None

    @contextmanager
    def _listening(self, caught: list[Tensor]) -> Iterator[None]:
        if self.at is None:
            yield
            return

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else next(iter(kwargs.values())))

        layer = self.model.get_submodule(self.at)
        hook = layer.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def last_linear(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name and layer of the last Linear: the head, in classifiers of torchvision and timm."""
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return found[-1] if found else None


def listened(
    model: nn.Module,
    at: str | None,
    answers: bool,
    n_classes: int | None,
    key_dim: int | None,
) -> tuple[Host, int, int]:
    """The host, the width of its features, and how many classes it has.

    Args:
        model: any module.
        at: name of the layer to listen at; if None the last Linear of a classifier, and the output
            of what is none.
        answers: whether the model is a classifier.
        n_classes: how many classes it has, if that is known; else as many as the last Linear gives.
        key_dim: the width of the features, if that is known; else what a Linear takes or gives.

    Raises:
        ValueError: there is no such layer, or nothing says how wide the features are.
    """
    head = last_linear(model)
    if answers and n_classes is None and head is None:
        raise ValueError(
            f"{type(model).__name__} has no Linear, so nothing says what its classes are: give "
            "classes=, or host=False if it is no classifier"
        )
    if answers and at is None:
        at = _head_of(head, model)[0]
    if at is not None:
        key_dim = _width_into(model, at, key_dim)
    elif key_dim is None:
        key_dim = _head_of(head, model)[1].out_features
    n_host = 0 if not answers else n_classes or (head[1].out_features if head else 0)
    return Host(model, at, answers), key_dim, n_host


def _head_of(head: tuple[str, nn.Linear] | None, model: nn.Module) -> tuple[str, nn.Linear]:
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no Linear to listen at: name a layer with at=, and give "
            "memory=Memory(key_dim=...) of its input's width"
        )
    return head


def _width_into(model: nn.Module, at: str, key_dim: int | None) -> int:
    """The width of what enters a layer: what is written on a Linear, otherwise what is said."""
    layers = dict(model.named_modules())
    if at not in layers:
        some = ", ".join(repr(name) for name in list(layers)[-3:] if name)
        raise ValueError(f"{type(model).__name__} has no layer {at!r}; its last are {some}")
    width = layers[at].in_features if isinstance(layers[at], nn.Linear) else key_dim
    if width is None:
        raise ValueError(
            f"the layer {at!r} is a {type(layers[at]).__name__}, whose input's width is not "
            "written on it: give memory=Memory(key_dim=...) of that width"
        )
    if key_dim not in (None, width):
        raise ValueError(f"features of width {width} enter {at!r}, and the memory's have {key_dim}")
    return int(width)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
