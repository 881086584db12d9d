"""The feature extractor: the host model, and the layer of it whose input are the features."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rarememory.classifier.examples import count_examples, split_batch, to_device
from rarememory.classifier.layer_hooks import layer_hooks
from rarememory.classifier.modes import evaluation_mode


class FeatureExtractor(nn.Module):
    """Features of a model, and its logits if it is a classifier.

    The model is called as it is. A hook is on the layer during the call only, so the model is not
    changed and can be used elsewhere at any time; several threads may call at once.

    Args:
        model: any module.
        at: name of the layer whose input are the features; None for the model's output.
        has_logits: whether the model's output are logits of its own classes.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> features, logits = FeatureExtractor(model, at="1", has_logits=True)(torch.rand(5, 4))
        >>> features.shape, logits.shape
        (torch.Size([5, 3]), torch.Size([5, 2]))
    """

    def __init__(self, model: nn.Module, at: str | None, has_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.at = at
        self.has_logits = has_logits

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Features [batch, key_dim] and logits [batch, n_host], in the model's present mode.

        A feature map [batch, channels, height, width] is averaged over height and width. Inputs in
        a dict are the model's arguments by name.

        Raises:
            ValueError: the layer did not run, or the features have another shape.
        """
        layer_inputs: list[Tensor] = []
        layers = {} if self.at is None else {self.at: self.model.get_submodule(self.at)}
        with layer_hooks(layers, lambda _, value: layer_inputs.append(value)):
            output = self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)
        # Models of Hugging Face return an object.
        output = getattr(output, "logits", output)
        if self.at is None:
            layer_inputs = [output]
        if not layer_inputs:
            raise ValueError(f"the layer {self.at!r} did not run: name one that does, with at=")
        features = layer_inputs[-1]
        if features.dim() == 4:
            features = features.mean((2, 3))
        if features.dim() != 2:
            raise ValueError(
                f"features must be [batch, key_dim], and {self.at or 'the output'!r} gives "
                f"{list(features.shape)}: name another layer with at="
            )
        return features, output if self.has_logits else None

    @torch.no_grad()
    def extract(self, inputs: Any, batch_size: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features and logits in evaluation mode and without gradient.

        Args:
            inputs: a batch of any size.
            batch_size: examples that the model gets at once.
            like: inputs are moved to the device of this tensor, floats to its dtype.

        Raises:
            ValueError: there are more or fewer features than examples.
        """
        with evaluation_mode(self):
            parts = [self(to_device(part, like)) for part in split_batch(inputs, batch_size)]
        features = torch.cat([features for features, _ in parts])
        if len(features) != count_examples(inputs):
            raise ValueError(
                f"the model makes {len(features)} features of {count_examples(inputs)} examples"
            )
        logits = [logits for _, logits in parts if logits is not None]
        return features, torch.cat(logits) if logits else None


def last_linear(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name and layer of the last Linear: the head, in classifiers of torchvision and timm."""
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return found[-1] if found else None


def feature_extractor(
    model: nn.Module,
    at: str | None,
    has_logits: bool,
    n_classes: int | None,
    key_dim: int | None,
) -> tuple[FeatureExtractor, int, int]:
    """The feature extractor of a model, the width of its features, and its number of classes.

    Args:
        model: any module.
        at: name of the layer whose input are the features; if None the last Linear of a classifier,
            and the output of any other model.
        has_logits: whether the model is a classifier.
        n_classes: its number of classes; if None the output width of the last Linear.
        key_dim: the width of the features; if None the width that a Linear takes or gives.

    Raises:
        ValueError: there is no such layer, or the width of the features cannot be found out.
    """
    head = last_linear(model)
    if has_logits and n_classes is None and head is None:
        raise ValueError(
            f"{type(model).__name__} has no Linear, so nothing says what its classes are: give "
            "classes=, or host=False if it is no classifier"
        )
    if has_logits and at is None:
        at = _required(head, model)[0]
    if at is not None:
        key_dim = _input_width(model, at, key_dim)
    elif key_dim is None:
        key_dim = _required(head, model)[1].out_features
    n_host = 0 if not has_logits else n_classes or (head[1].out_features if head else 0)
    return FeatureExtractor(model, at, has_logits), key_dim, n_host


def _required(head: tuple[str, nn.Linear] | None, model: nn.Module) -> tuple[str, nn.Linear]:
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no Linear to take features from: name a layer with at=, "
            "and give memory=Memory(key_dim=...) of its input's width"
        )
    return head


def _input_width(model: nn.Module, at: str, key_dim: int | None) -> int:
    """The width of a layer's input: that of a Linear, otherwise `key_dim`."""
    layers = dict(model.named_modules())
    if at not in layers:
        some = ", ".join(repr(name) for name in list(layers)[-3:] if name)
        raise ValueError(f"{type(model).__name__} has no layer {at!r}; its last are {some}")
    width = layers[at].in_features if isinstance(layers[at], nn.Linear) else key_dim
    if width is None:
        raise ValueError(
            f"the layer {at!r} is a {type(layers[at]).__name__}, which does not say the width of "
            "its input: give memory=Memory(key_dim=...) of that width"
        )
    if key_dim not in (None, width):
        raise ValueError(f"features of width {width} enter {at!r}, and the memory's have {key_dim}")
    return int(width)
