"""The encoder in the package: a residual network trained on Omniglot's characters."""

from importlib.resources import files

from safetensors.torch import load

from rarememory.backbones.residual import Residual

# The test characters of the Vinyals split, in its order: the first and the last of each alphabet.
_UNSEEN = {
    "Gurmukhi": (42, 45),
    "Kannada": (1, 41),
    "Keble": (1, 26),
    "Malayalam": (1, 47),
    "Manipuri": (1, 40),
    "Mongolian": (1, 30),
    "Old_Church_Slavonic_(Cyrillic)": (1, 45),
    "Oriya": (1, 46),
    "Syriac_(Serto)": (1, 23),
    "Sylheti": (1, 28),
    "Tengwar": (1, 25),
    "Tibetan": (1, 42),
    "ULOG": (1, 26),
}


def omniglot_encoder() -> Residual:
    """The shipped encoder of 28x28 drawings, ink 1 on 0, in evaluation mode; key_dim is 128.

    Its weights, in half precision, were trained on the training characters of the Vinyals split and
    tested by `python -m benchmarks.omniglot --data <folder> --split <lists> --weights
    rarememory/weights/omniglot.safetensors`.

    Example:
        >>> import torch
        >>> omniglot_encoder()(torch.zeros(1, 1, 28, 28)).shape
        torch.Size([1, 128])
    """
    stored = load((files("rarememory") / "weights" / "omniglot.safetensors").read_bytes())
    encoder = Residual(key_dim=128)
    encoder.load_state_dict(stored)
    return encoder.eval()


def unseen_characters() -> tuple[str, ...]:
    """The 423 characters of Omniglot on which the shipped encoder was not trained.

    >>> names = unseen_characters()
    >>> len(names), names[0]
    (423, 'Gurmukhi/character42')
    """
    return tuple(
        f"{alphabet}/character{number:02}"
        for alphabet, (first, last) in _UNSEEN.items()
        for number in range(first, last + 1)
    )
