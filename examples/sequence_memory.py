"""A memory at every step of a sequence: copy letters, and translate numbers after one sight.

    python examples/sequence_memory.py

From `AB0312B` comes `AB...<symbol>B`: letters are copied, and at its last digit the number 0312 is
answered by a symbol that follows no rule. This is a small form of the task of Kaiser et al. 2017,
section 4.2; `python -m benchmarks.sequence` has it whole, with attention.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rarememory import Memory

torch.manual_seed(0)
DIGITS, LETTERS, WIDTH = 4, 6, 64
numbers = torch.randperm(4**DIGITS)
OLD, NEW = numbers[:200], numbers[200:]  # to train on, and to see at the very end
N_ANSWERS = 3 + 4**DIGITS  # 0 and 1 are the letters, 2 is nothing to say yet, then the symbols


def strings(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Letters with a number at some place among them, and the right answer at every step."""
    place = torch.randint(LETTERS + 1, (len(numbers), 1))
    at = torch.arange(LETTERS + DIGITS) - place
    digits = numbers.unsqueeze(1) // 4 ** at.clamp(0, DIGITS - 1) % 4
    is_digit, is_last = (at >= 0) & (at < DIGITS), at == DIGITS - 1
    letters = torch.randint(2, at.shape)
    answers = torch.where(is_last, symbols[numbers, None], torch.where(is_digit, 2, letters))
    return torch.where(is_digit, 2 + digits, letters), answers


class Translator(nn.Module):
    """At each step: a query of the last few tokens, and an answer of them and what was recalled."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self.tokens = nn.Embedding(2 + 4, 16)
        self.window = nn.Conv1d(16, WIDTH, kernel_size=DIGITS)
        self.query = nn.Linear(WIDTH, memory.keys.shape[1])
        self.answers = nn.Embedding(N_ANSWERS, WIDTH)
        self.join = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, inputs: Tensor, right: Tensor | None = None):
        tokens = nn.functional.pad(self.tokens(inputs).transpose(1, 2), (DIGITS - 1, 0))
        context = self.window(tokens).relu().transpose(1, 2)
        recall = self.memory(self.query(context), right, k=8)  # [batch, time] at once
        recalled = self.answers(recall.prediction.clamp(min=0)) * recall.confidence.unsqueeze(2)
        joined = self.join(torch.cat([context, recalled], dim=2))
        return joined @ self.answers.weight.T, recall


def accuracy(numbers: Tensor) -> float:
    """The part of new strings with these numbers whose every answer is right."""
    inputs, right = strings(numbers)
    scores, _ = translator(inputs)
    return (scores.argmax(dim=2) == right).all(dim=1).float().mean().item()


translator = Translator(Memory(key_dim=32, memory_size=512))
optimizer = torch.optim.Adam(translator.parameters(), lr=3e-3)
for step in range(300):
    if step % 10 == 0:  # numbers get new symbols, which the memory alone can know
        translator.memory.clear()
        symbols = 3 + torch.randperm(4**DIGITS)
    inputs, right = strings(OLD[torch.randint(len(OLD), (64,))])
    scores, recall = translator(inputs, right)
    loss = cross_entropy(scores.flatten(0, 1), right.flatten()) + recall.loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    translator.memory.write(recall, right)

print(f"numbers not seen before: {accuracy(NEW):.0%} of outputs are right")
inputs, right = strings(NEW)
translator.memory.write(translator(inputs)[1], right)  # one string each, and no training
print(f"numbers seen once:       {accuracy(NEW):.0%}")
