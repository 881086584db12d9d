"""Wrap a ResNet of torchvision: learn, ask, explain, forget, save, load.

    python examples/wrap_resnet.py

Its weights are random here, so that it runs offline; in earnest say weights="DEFAULT".
"""

import tempfile
from pathlib import Path

import torch
from torchvision.models import resnet18

import rarememory

torch.manual_seed(0)
resnet = resnet18(weights=None)
# Its 1,000 classes are 0, 1, ... 999 unless classes= names them.
model = rarememory.wrap(resnet)
print("features enter", model.extractor.at, "and have width", model.memory.keys.shape[1])

birds = torch.rand(3, 3, 64, 64)  # in earnest: pictures, as the ResNet wants them
model.learn(birds, ["kea", "kea", "kakapo"], refs=["1.jpg", "2.jpg", "3.jpg"])
print("one bird:", model.predict(birds[2]), "- all of them:", model.predict(birds))

for remembered in model.explain(birds[2], k=2):
    print(f"  {remembered.label} {remembered.ref}: cosine {remembered.score:.2f}")

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "birds.safetensors"
    model.save(file)
    again = rarememory.MemoryClassifier.load(file, resnet)
print("loaded, it answers the same:", again.predict(birds) == model.predict(birds))

print("slots that forgetting the kea emptied:", model.forget("kea"))
print("still known beside the 1,000:", model.classes[1000:])
print("the ResNet is as it was:", model.model is resnet)
