"""What a memory holds in numbers, flat, as any logger takes them."""

from rarememory.base.state import EMPTY, MemoryState
from rarememory.memory.usage import Usage


def stats_of(state: MemoryState, usage: Usage | None) -> dict[str, float]:
    """Numbers by name; those of classes and ages are left out where nothing is remembered."""
    occupied = state.occupied
    count = int(occupied.sum())
    found: dict[str, float] = {
        "slots": len(state.values),
        "occupied": count,
        "fill": count / len(state.values),
        "writes": int(state.clock),
    }
    if count:
        of_class = state.values[state.values != EMPTY].unique(return_counts=True)[1]
        ages = state.ages[occupied].double()
        found |= {
            "classes": len(of_class),
            "slots_per_class_min": int(of_class.min()),
            "slots_per_class_mean": of_class.double().mean().item(),
            "slots_per_class_max": int(of_class.max()),
            "age_mean": ages.mean().item(),
            "age_max": ages.max().item(),
        }
    if usage is not None:
        found["reads"] = int(usage.reads)
        if count:
            found["answered"] = (usage.uses[occupied] > 0).double().mean().item()
            found["idle_max"] = int(usage.idle[occupied].max())
    return {name: float(number) for name, number in found.items()}
