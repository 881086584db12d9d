"""Classes around random centres, and classifiers of them."""

import torch
from torch import nn

import rarememory


def world(
    counts: list[int], dim: int = 12, spread: float = 0.5, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes around random centres, with noise that is greater along some axes."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(counts), dim, generator=random)
    scales = torch.linspace(0.2, 2.0, dim) * spread
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), dim, generator=random) * scales
    return nn.functional.normalize(centres[labels] + noise + 0.7, dim=1), labels


def shuffled(*parts: torch.Tensor, seed: int = 1) -> list[torch.Tensor]:
    order = torch.randperm(len(parts[0]), generator=torch.Generator().manual_seed(seed))
    return [part[order] for part in parts]


def classifier(host: bool, dim: int = 12, n_host: int = 4) -> rarememory.MemoryClassifier:
    torch.manual_seed(0)
    if not host:
        return rarememory.wrap(nn.Identity(), host=False)
    model = nn.Sequential(nn.Identity(), nn.Linear(dim, n_host))
    return rarememory.wrap(model, memory_size=256)
