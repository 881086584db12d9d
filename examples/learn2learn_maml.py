"""With learn2learn: our episodes train its MAML, and its Taskset tests our memory.

    make learn2learn
    .venv-learn2learn/bin/python examples/learn2learn_maml.py

It does not install in the ordinary way on today's Python; `make learn2learn` knows one that works.
"""

import random

import learn2learn as l2l
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from rarememory import Memory
from rarememory.backbones import Conv4, omniglot_encoder
from rarememory.data import draw_glyphs
from rarememory.integrations.learn2learn import EpisodeTasks, task_accuracy

torch.manual_seed(0)
random.seed(0)  # learn2learn draws tasks with it
N_WAY, N_SHOT, N_QUERY = 5, 1, 3

# Classes to train on, and others to test on: learn2learn leaves it to you to keep them apart.
glyphs = draw_glyphs(200, n_drawings=8)
seen, new = glyphs.images[:150], glyphs.images[150:]

# Our episodes feed its MAML.
episodes = EpisodeTasks(seen, n_way=N_WAY, n_shot=N_SHOT, n_query=N_QUERY)
maml = l2l.algorithms.MAML(Conv4(N_WAY, width=16), lr=0.4, first_order=True)
optimizer = torch.optim.Adam(maml.parameters(), lr=0.005)


def adapted_loss(task: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The loss of the query after a step on the support, and the share of right answers."""
    support, query = l2l.data.partition_task(*task, shots=N_SHOT)
    learner = maml.clone()
    learner.adapt(cross_entropy(learner(support[0]), support[1]))
    logits = learner(query[0])
    right = (logits.argmax(1) == query[1]).float().mean().item()
    return cross_entropy(logits, query[1]), right


for _ in range(150):
    optimizer.zero_grad()
    for _ in range(4):
        adapted_loss(episodes.sample())[0].div(4).backward()
    optimizer.step()

# Its Taskset, of the new classes alone, tests both.
labels = torch.arange(len(new)).repeat_interleave(new.shape[1])
pictures = new.flatten(0, 1).unsqueeze(1) / 255
dataset = l2l.data.MetaDataset(TensorDataset(pictures, labels))
taskset = l2l.data.Taskset(
    dataset,
    [
        l2l.data.transforms.NWays(dataset, N_WAY),
        l2l.data.transforms.KShots(dataset, N_SHOT + N_QUERY),
        l2l.data.transforms.LoadData(dataset),
        l2l.data.transforms.RemapLabels(dataset),
        l2l.data.transforms.ConsecutiveLabels(dataset),
    ],
    num_tasks=100,
)
maml_right = [adapted_loss(task)[1] for task in taskset]
print(f"MAML, trained for seconds: {sum(maml_right) / len(maml_right):.0%} of new glyphs known")

encoder: nn.Module = omniglot_encoder()  # has never seen a glyph
memory = Memory(key_dim=encoder(pictures[:1]).shape[1], memory_size=N_WAY * N_SHOT)
accuracy = task_accuracy(memory, taskset, encoder, n_shot=N_SHOT)
print(f"a memory, with an encoder of handwriting: {accuracy.mean:.0%} of the same")
