"""Few-shot intents: sentences, any encoder of them, a handful of examples each.

    python examples/intents.py

The encoder here counts pieces of words; one of your own takes a list of texts just the same.
"""

import zlib

import torch
from torch import nn

from rarememory import MemoryClassifier


class Pieces(nn.Module):
    """Counts every three letters in a row, each in one of 512 places."""

    def forward(self, texts: list[str]) -> torch.Tensor:
        """The counts [batch, 512] of a batch of texts."""
        counts = torch.zeros(len(texts), 512)
        for row, text in enumerate(texts):
            padded = f"  {text.lower()}  "
            for start in range(len(padded) - 2):
                counts[row, zlib.crc32(padded[start : start + 3].encode()) % 512] += 1
        return counts.sqrt()


intents = MemoryClassifier(Pieces(), host=False, memory_size=100)
intents.learn(
    [
        "what is the weather tomorrow",
        "will it rain today",
        "how warm is the weather",
        "play some music",
        "play the next song",
        "set an alarm for seven",
        "wake me at six",
    ],
    ["weather", "weather", "weather", "music", "music", "alarm", "alarm"],
)
intents.fit_threshold(false_accept_rate=0.1)  # no example of anything else is needed

for text in ("will the weather be warm", "play a song", "an alarm at six", "quarks have a spin"):
    nearest = intents.explain(text, k=1)[0]
    print(f"{text!r}: {intents.predict(text)} ({nearest.score:.2f} to {nearest.label})")

# A new intent is one example away, and gone with a word.
intents.learn("turn off the light", "light")
print("learnt at once:", intents.predict("turn the light off"))
intents.forget("music")
print("known now:", intents.classes)
