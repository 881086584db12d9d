"""Values that are texts: remembered sentences as context for a decoder.

    python examples/text_values.py

A label is any hashable thing, so it may be the text that is to be found again. What is found goes
into the prompt of a language model, with the weight of each text; here the prompt is printed. The
encoder counts pieces of words; a sentence encoder takes its place in earnest.
"""

from zlib import crc32

import torch

import rarememory

WIDTH = 512
FACTS = {
    "What do keas eat?": "Keas eat roots, insects and, where they can, the rubber of cars.",
    "Where do kakapos live?": "Kakapos live on islands without predators, off New Zealand.",
    "Can a kakapo fly?": "Kakapos cannot fly; they climb, and glide down from trees.",
    "How old do tuataras get?": "Tuataras live for more than a hundred years.",
}


class Pieces(torch.nn.Module):
    """Counts of the pieces of four letters of each text."""

    def forward(self, texts: list[str]) -> torch.Tensor:
        counts = torch.zeros(len(texts), WIDTH)
        for row, text in enumerate(texts):
            text = f" {text.lower()} "
            for start in range(len(text) - 3):
                counts[row, crc32(text[start : start + 4].encode()) % WIDTH] += 1
        return counts


memory = rarememory.wrap(Pieces(), host=False, reader="nearest")
memory.learn(list(FACTS), list(FACTS.values()), refs=list(FACTS))

question = "Is it true that a kakapo can not fly?"
found = memory.explain([question], k=2)[0]
context = "\n".join(f"- {one.label} ({one.weight:.0%}, from {one.ref!r})" for one in found)
print(f"Answer from what is remembered.\n\n{context}\n\nQuestion: {question}\nAnswer:")
assert found[0].label == FACTS["Can a kakapo fly?"]
