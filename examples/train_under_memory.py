"""Train an encoder under the memory: the loss wants the right key nearer than any wrong one.

    python examples/train_under_memory.py

The classes are directions in a space of 32 numbers, hidden in noise; the encoder learns to see
them, and then knows classes it was never trained on from one example each.
"""

import torch
from torch import nn

from rarememory import Memory

torch.manual_seed(0)
SIGNAL, NOISE = 8, 24
classes = torch.randn(300, SIGNAL)


def examples_of(labels: torch.Tensor) -> torch.Tensor:
    """New examples: the class in the first numbers, nothing of interest in the others."""
    signal = classes[labels] + 0.3 * torch.randn(len(labels), SIGNAL)
    return torch.cat([signal, 2 * torch.randn(len(labels), NOISE)], dim=1)


def one_shot_accuracy(encoder: nn.Module) -> float:
    """Of 100 classes never trained on, each remembered from one example."""
    labels = torch.arange(200, 300)
    memory = Memory(key_dim=16, memory_size=100)
    memory.write(encoder(examples_of(labels)), labels)
    return (memory(encoder(examples_of(labels)), k=1).prediction == labels).float().mean().item()


encoder = nn.Linear(SIGNAL + NOISE, 16, bias=False)
memory = Memory(key_dim=16, memory_size=400)
optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
print(f"before: {one_shot_accuracy(encoder):.0%} of new classes known from one example")

for _ in range(600):
    labels = torch.randint(0, 200, (32,))
    recall = memory(encoder(examples_of(labels)), labels)  # with labels there is a loss
    optimizer.zero_grad()
    recall.loss.backward()  # to the encoder; the keys have no gradient
    optimizer.step()
    memory.write(recall, labels)  # what was just recalled, so nothing is looked up twice

print(f"after:  {one_shot_accuracy(encoder):.0%}")
