"""Changes that torch does not count: what is kept of the keys is not used in silence after them."""

import warnings

import pytest
import torch
from torch import nn

from rarememory import EMPTY, FirstInFirstOut, Memory, wrap
from rarememory.base.spot_checks import scattered
from rarememory.lookup import FaissIVF, LocalitySensitiveHashing, NativeLookup
from tests.lookup.test_nearest import units

SLOTS, KEY_DIM = 1500, 16
SEARCHES = {
    "native": NativeLookup,
    "faiss ivf": lambda: FaissIVF(n_lists=2, n_probe=2),
    "hashing": lambda: LocalitySensitiveHashing(n_bits=4, radius=4),
}
CHANGES = {
    ".data": lambda tensor, rows: tensor.data.copy_(rows),
    "NumPy": lambda tensor, rows: tensor.numpy().__setitem__(slice(None), rows.numpy()),
}
UNCOUNTED = "changed in a way that torch does not count"


def asked(search: str, **options: object) -> Memory:
    """A full memory whose search has made what it keeps of the keys."""
    memory = Memory(
        KEY_DIM, SLOTS, k=5, lookup=SEARCHES[search](), update=FirstInFirstOut(), **options
    )
    memory.write(units(SLOTS, KEY_DIM), torch.arange(SLOTS))
    for _ in range(40):
        memory(units(1, KEY_DIM))
    return memory


def exact(memory: Memory, queries: torch.Tensor) -> torch.Tensor:
    twin = Memory(KEY_DIM, SLOTS, k=5, lookup="torch")
    twin.load_state_dict(memory.state_dict())
    return twin(queries).slots


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_all_keys_is_seen_at_once(search, change):
    memory = asked(search)
    CHANGES[change](memory.keys, units(SLOTS, KEY_DIM))
    queries = units(3, KEY_DIM)
    with pytest.warns(UserWarning, match=UNCOUNTED):
        slots = memory(queries).slots
    assert torch.equal(slots, exact(memory, queries))
    # Once: what is kept is of the new keys.
    for _ in range(40):
        assert torch.equal(memory(queries).slots, exact(memory, queries))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("search", SEARCHES)
def test_a_change_of_one_key_is_seen_when_its_turn_comes(search):
    memory = asked(search)
    row = int(scattered(SLOTS)[200])
    memory.keys.data[row] = -memory.keys[row]
    query = memory.keys[row : row + 1].clone()
    with warnings.catch_warnings(record=True, action="always") as seen:
        for _ in range(SLOTS):
            memory(query)
            if seen:
                break
    assert len(seen) == 1 and UNCOUNTED in str(seen[0].message)
    assert memory(query).slots[0, 0] == row


@pytest.mark.parametrize("search", SEARCHES)
def test_sync_tells_of_any_change_at_once_and_without_a_warning(search):
    memory = asked(search)
    memory.keys.data[700] = -memory.keys[700]
    memory.sync()
    query = memory.keys[700:701].clone()
    assert memory(query).slots[0, 0] == 700
    assert torch.equal(memory(query).slots, exact(memory, query))


def test_a_half_precision_copy_follows_and_sync_tells_it():
    memory = Memory(KEY_DIM, 40, half_precision_copy=True, lookup="torch")
    memory.write(units(40, KEY_DIM), torch.arange(40))
    memory.keys.data.copy_(units(40, KEY_DIM))
    with pytest.warns(UserWarning, match=UNCOUNTED):
        memory(units(1, KEY_DIM))
    assert torch.equal(memory.half_precision_copy.keys, memory.keys.half())
    memory.keys.data[3].neg_()
    memory.sync()
    assert torch.equal(memory.half_precision_copy.keys, memory.keys.half())


@pytest.mark.parametrize("part", ["keys", "values"])
def test_a_fitted_reader_follows_and_sync_tells_it(part):
    images = torch.eye(KEY_DIM)[:4]
    birds = wrap(nn.Identity(), host=False, memory=Memory(KEY_DIM, 8))
    birds.learn(images, ["kea", "weka", "kakapo", "takahe"])
    assert birds.predict(images[:1]) == ["kea"]
    tensor = getattr(birds.memory, part)
    tensor.data[:4] = tensor[:4].flip(0)
    with pytest.warns(UserWarning, match=UNCOUNTED):
        assert birds.predict(images[:1]) == ["takahe"]
    tensor.data[:4] = tensor[:4].flip(0)
    birds.memory.sync()
    assert birds.predict(images[:1]) == ["kea"]
    birds.memory.values.data[:] = EMPTY
    birds.memory.sync()
    assert birds.predict(images[:1]) == ["unknown"]


def test_sync_is_possible_in_inference_mode_too():
    with torch.inference_mode():
        memory = Memory(KEY_DIM, 8, half_precision_copy=True)
        memory.sync()
        assert not len(memory)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 1024, 1500])
def test_every_row_has_its_turn_and_neighbours_are_far_apart(count):
    order = scattered(count)
    assert order.sort().values.tolist() == list(range(count))
    if count > 8:
        assert (order.diff().abs() > count // 4).all()
