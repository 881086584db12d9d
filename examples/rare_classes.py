"""Add rare classes to a trained classifier, from one example each, and keep what it knows.

    python examples/rare_classes.py

The classifier knows 40 drawn glyphs; 20 more come along, of which there is one drawing each.
"""

import torch
from torch import nn

import rarememory
from rarememory.backbones import omniglot_encoder
from rarememory.data import draw_glyphs

torch.manual_seed(0)
glyphs = draw_glyphs(80)
OLD, NEW, STRANGE = range(40), range(40, 60), range(60, 80)


def drawings(classes: range, which: range) -> tuple[torch.Tensor, list[str]]:
    """Drawings of these classes, and their names."""
    images = glyphs.images[classes.start : classes.stop, which.start : which.stop] / 255
    names = [glyphs.names[number] for number in classes for _ in which]
    return images.flatten(0, 1).unsqueeze(1), names


def accuracy(classes: range) -> str:
    """How many drawings that nobody has seen are called rightly."""
    inputs, names = drawings(classes, range(15, 20))
    right = [answer == name for answer, name in zip(model.predict(inputs), names, strict=True)]
    return f"{sum(right) / len(right):.0%}"


# An ordinary classifier: an encoder, and a Linear trained by softmax.
encoder, head = omniglot_encoder(), nn.Linear(128, len(OLD))
inputs, names = drawings(OLD, range(10))
with torch.no_grad():
    features = encoder(inputs)
targets = torch.arange(len(OLD)).repeat_interleave(10)
optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(head(features), targets).backward()
    optimizer.step()

# Give it a memory. It goes on answering as it did, and learns without training.
model = rarememory.wrap(nn.Sequential(encoder, head), classes=glyphs.names[:40], memory_size=1000)
print("old classes, before:", accuracy(OLD))
model.learn(inputs, names)  # the old classes too: the new ones are compared with them
model.learn(*drawings(NEW, range(1)))
print("old classes, after: ", accuracy(OLD))
print("new classes:        ", accuracy(NEW))

# Where drawings can be spared, they say how host and memory are to be weighed.
held_out = [drawings(classes, range(10, 13)) for classes in (OLD, NEW)]
report = model.calibrate(
    torch.cat([inputs for inputs, _ in held_out]), [name for _, names in held_out for name in names]
)
print("calibrated, old and new:", accuracy(OLD), accuracy(NEW))
print(f"confidence is off by {report.error:.1%} on average; it was by {report.error_before:.1%}")

# What it has never met it calls unknown, at a rate of one's own choice.
model.fit_threshold(unknown=drawings(STRANGE, range(10))[0], false_accept_rate=0.05)
answers = model.predict(drawings(STRANGE, range(10, 20))[0])
print(f"strangers taken for known: {sum(a != 'unknown' for a in answers) / len(answers):.0%}")
