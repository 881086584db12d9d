"""The feature extractor: the host model, and the layer of it whose input are the features."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rarememory.classifier.examples import count_examples, split_batch, to_device
from rarememory.classifier.failures import inputs_named
from rarememory.classifier.heads import MAX_NAMED, HeadSearch, check_seen, likely_head, widths
from rarememory.classifier.layer_hooks import layer_hooks
from rarememory.classifier.modes import evaluation_mode
from rarememory.classifier.outputs import OWN_FUNCTION, Output, read_output
from rarememory.classifier.wrappers import called, known_names, layers_seen, name_inside, unwrapped


class FeatureExtractor(nn.Module):
    """Features of a model, and its logits if it is a classifier.

    The model is called as it is. A hook is on the layer during the call only, so the model is not
    changed and can be used elsewhere at any time; several threads may call at once. A compiled
    model, and one in `DataParallel`, is called without its wrapper.

    Args:
        model: any module.
        at: name of the layer whose input are the features; None for the model's output.
        has_logits: whether the model's output are logits of its own classes.
        output: which part of what the model returns are its logits or its features; see
            `rarememory.classifier.outputs`.
        guessed: whether `at` is a guess: then the first batch shows whether the output of that
            layer is the model's, and which layer's is.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> features, logits = FeatureExtractor(model, at="1", has_logits=True)(torch.rand(5, 4))
        >>> features.shape, logits.shape
        (torch.Size([5, 3]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        model: nn.Module,
        at: str | None,
        has_logits: bool,
        output: Output | None = None,
        guessed: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.at = at
        self.has_logits = has_logits
        self.output = output
        self.guessed = guessed

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Features [batch, key_dim] and logits [batch, n_host], in the model's present mode.

        A feature map [batch, channels, height, width] is averaged over height and width. Inputs in
        a dict are the model's arguments by name.

        Raises:
            ValueError: the layer did not run, is not the head, or the features have another shape;
                or nothing says which part of what the model returns its logits are.
        """
        if self.guessed:
            features, output = self._with_search(inputs)
        else:
            features, output = self._at_layer(inputs)
        if isinstance(features, Tensor) and features.dim() == 4:
            features = features.mean((2, 3))
        if not isinstance(features, Tensor) or features.dim() != 2:
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            other = "a layer with at=" if self.at is None else "another layer with at="
            raise ValueError(
                f"features must be [batch, key_dim], and {self.at or 'the output'!r} gives {got}: "
                f"name {other}, or give a function of the output with output="
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
            ValueError: there are more or fewer features than examples; or the model fails on a list
                whose kind it does not take.
        """
        count = count_examples(inputs)
        batches = [inputs] if count <= batch_size else split_batch(inputs, batch_size)
        with evaluation_mode(self.model), inputs_named(inputs):
            parts = [_copied(*self.forward(to_device(part, like))) for part in batches]
        features, logits = parts[0] if len(parts) == 1 else _joined(parts)
        if len(features) != count:
            raise ValueError(f"the model makes {len(features)} features of {count} examples")
        return features, logits

    def first_parameter(self) -> nn.Parameter | None:
        """The first of `parameters()`, in a tenth of the time; None where there is none."""
        return _first_parameter(self)

    def to_json(self) -> dict[str, Any]:
        """What a file says of the model: where its features are, and which part its output is."""
        own = self.output is None or isinstance(self.output, str | int)
        return {
            "at": self.at,
            "answers": self.has_logits,
            "guessed": self.guessed,
            "output": self.output if own else OWN_FUNCTION,
        }

    def _output(self, inputs: Any) -> Tensor:
        """What the model answers, as one tensor."""
        if isinstance(inputs, Mapping):
            returned = called(self.model, **inputs)
        else:
            returned = called(self.model, inputs)
        return read_output(returned, self.output, inputs, self.has_logits)

    def _at_layer(self, inputs: Any) -> tuple[Any, Tensor]:
        """What enters the layer, or leaves the model; and the model's output."""
        if self.at is None:
            output = self._output(inputs)
            return output, output
        entered: list[Any] = []
        inner = unwrapped(self.model)
        layers = {self.at: inner.get_submodule(self.at)}
        seen = layer_hooks(layers, lambda _, value: entered.append(value))
        with layers_seen(inner, layers), seen:
            output = self._output(inputs)
        if not entered:
            raise ValueError(
                f"the layer {self.at!r} did not run: name one that does, with at= (in a part that "
                "is compiled or scripted, no layer is seen to run)"
            )
        return entered[-1], output

    def _with_search(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """What enters the head, which is searched for; and the model's output."""
        inner = unwrapped(self.model)
        search = HeadSearch(inner)
        seen = layer_hooks(search.layers, search.before, search.after)
        with layers_seen(inner, search.layers), seen:
            output = self._output(inputs)
        if output.is_meta or not output.numel():
            # There are no numbers to compare: another batch will show it.
            return self._at_layer(inputs)
        heads = search.with_output(output)
        if not heads:
            raise ValueError(
                _no_head(type(unwrapped(self.model)).__name__, self.at, search, output)
            )
        head = next((call for call in heads if call.name == self.at), heads[-1])
        self.at, self.guessed = head.name, False
        return head.features, output


def _copied(features: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Copies: a model may write all that it returns into one tensor, call after call."""
    copied = partial(torch.clone, memory_format=torch.contiguous_format)
    return copied(features), None if logits is None else copied(logits)


def _joined(parts: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    logits = [logits for _, logits in parts if logits is not None]
    return torch.cat([features for features, _ in parts]), torch.cat(logits) if logits else None


def _no_head(model: str, at: str | None, search: HeadSearch, output: Tensor) -> str:
    """Why no layer is the head, and what to say instead."""
    names = search.with_width_of(output)[-MAX_NAMED:]
    shape = list(output.shape)
    if names:
        candidates = f"as many numbers come from {', '.join(map(repr, names))}"
    else:
        candidates = "no layer gives as many numbers"
    layer = "a layer" if at is None else f"{at!r}, nor of another layer"
    return (
        f"the output of {model} {shape} is not that of {layer}; {candidates}: name the layer whose "
        "input are the features with at=, or say host=False if the model is an encoder without "
        "classes"
    )


def feature_extractor(
    model: nn.Module,
    at: str | None,
    has_logits: bool,
    key_dim: int | None,
    output: Output | None = None,
) -> tuple[FeatureExtractor, int | None, int]:
    """The feature extractor of a model, the width of its features, and its number of classes.

    Both numbers are those that a layer says it has. The first batch shows whether they are right.

    Args:
        model: any module.
        at: name of the layer whose input are the features; if None the last Linear of a classifier,
            and the output of any other model.
        has_logits: whether the model is a classifier.
        key_dim: the width that the features must have, if it is known.
        output: which part of what the model returns are its logits or its features.

    Returns:
        The extractor; the width, None if no layer says it; the number, 0 if no layer says it.

    Raises:
        ValueError: it is no model; or there is no such layer, or it is scripted; or none could be
            the head; or it takes features of another width.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            "wrap takes a model, which is a torch.nn.Module such as torchvision.models.resnet18(), "
            f"and this is {model!r}"
        )
    inner = unwrapped(model)
    head = likely_head(inner)
    guessed = has_logits and at is None
    if guessed and not HeadSearch(inner).layers:
        raise ValueError(
            f"{type(inner).__name__} has no Linear, nor another layer with weights, that could be "
            "the head: name a layer with at=, or say host=False if it is an encoder without classes"
        )
    of_head = None if head is None else widths(head[1])
    n_host = of_head.outputs if has_logits and of_head else 0
    if at is not None:
        at = _layer_name(inner, at)
        check_seen(inner, at)
        of_layer = widths(inner.get_submodule(at))
        width = of_layer.features if of_layer else None
    else:
        at = head[0] if guessed and head else None
        width = (of_head.features if guessed else of_head.outputs) if of_head else None
    if not guessed and at is not None and None not in (key_dim, width) and key_dim != width:
        raise ValueError(f"features of width {width} enter {at!r}, and the memory's have {key_dim}")
    return FeatureExtractor(model, at, has_logits, output, guessed), width, n_host


def reference(extractor: FeatureExtractor, memory: nn.Module, ensembler: nn.Module) -> Tensor:
    """A tensor of the model's device and dtype; memory and ensembler are moved to that device.

    Of the memory if the model has no parameters.
    """
    keys = memory.get_buffer("keys")
    parameter = extractor.first_parameter()
    like = keys if parameter is None else parameter
    if like.device != keys.device or like.device != ensembler.get_buffer("threshold").device:
        memory.to(like.device)
        ensembler.to(like.device)
    return like


def _layer_name(model: nn.Module, at: str) -> str:
    """The name of a layer in a model without wrappers, which may have been named with one."""
    layers = dict(model.named_modules())
    if (name := name_inside(at, known_names(layers))) is not None:
        return name
    some = ", ".join(repr(name) for name in list(layers)[-3:] if name)
    raise ValueError(f"{type(model).__name__} has no layer {at!r}; its last are {some}")


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for part in module._modules.values():
        if part is not None and (found := _first_parameter(part)) is not None:
            return found
    return None
