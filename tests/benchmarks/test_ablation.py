"""The ablation: one change a row, on validation characters, and what is trained alike once."""

import re
from dataclasses import fields
from functools import partial

import pytest
import torch

from benchmarks import omniglot_ablation as ablation
from benchmarks.omniglot_ablation import CHANGES, Change, evaluation_memory
from benchmarks.omniglot_peers.drawings import Drawings
from benchmarks.omniglot_peers.memory import TEMPERATURE
from benchmarks.omniglot_peers.tasks import Task
from benchmarks.summary import TABLES
from rarememory import FirstInFirstOut, Memory
from rarememory.backbones import BACKBONES, Conv4
from rarememory.data import draw_glyphs
from rarememory.training import Recipe, Training


def training_with(**options):
    memory = Memory(128, 8, **options)
    return Training(Conv4(128, width=2), memory, draw_glyphs(4, 2).images, Recipe(n_way=4))


def test_every_row_but_the_first_is_a_change_and_no_two_are_the_same():
    assert CHANGES["default"] == Change()
    rows = [repr(change) for change in CHANGES.values()]
    assert len(set(rows)) == len(rows)


def test_its_table_has_a_row_for_each_and_of_a_full_memory_only_five_shots():
    rows = TABLES["ablation"].splitlines()[2:]
    by_name = {re.search(r"ablation\.(\w+)", row)[1]: row for row in rows}
    assert by_name.keys() == CHANGES.keys() and len(by_name) == len(rows)
    five_shots = {name for name, row in by_name.items() if "w1s" not in row}
    assert five_shots == {name for name, change in CHANGES.items() if change.slots}


@pytest.mark.parametrize("name", CHANGES)
def test_a_row_changes_what_there_is_to_something_else(name):
    change = CHANGES[name]
    assert change.recipe.keys() <= {field.name for field in fields(Recipe)}
    assert all(getattr(Recipe(), what) != to for what, to in change.recipe.items())
    memory = evaluation_memory(change, Task(20, 5), training_with(**change.memory))
    for what, to in {**change.memory, **change.tested}.items():
        if what != "projection":
            assert (
                getattr(memory, what) == to != getattr(Memory(128, temperature=TEMPERATURE), what)
            )


def test_the_evaluation_memory_has_a_slot_a_drawing_or_as_many_as_the_row_says():
    training = training_with()
    assert len(evaluation_memory(Change(), Task(20, 5), training).values) == 100
    full = evaluation_memory(Change(memory={"margin": 0.2}, slots=1.5), Task(20, 5), training)
    assert len(full.values) == 30 and full.margin == 0.2
    policy = evaluation_memory(
        Change(tested={"update": FirstInFirstOut()}), Task(5, 1), training
    ).update
    assert policy == FirstInFirstOut()


def test_the_projection_that_was_learned_is_tested():
    training = training_with(projection=True)
    torch.nn.init.normal_(training.memory.projection.weight)
    memory = evaluation_memory(CHANGES["projection"], Task(5, 1), training)
    assert torch.equal(memory.projection.weight, training.memory.projection.weight)


@pytest.fixture
def run(folders, monkeypatch):
    monkeypatch.setitem(BACKBONES, "conv4", partial(Conv4, width=12))
    glyphs = draw_glyphs(28)
    parts = (glyphs.names[:16], glyphs.names[16:])
    train, rest = (glyphs.select(part) for part in parts)
    validation = rest.rotated()
    monkeypatch.setattr(
        ablation, "read", lambda *_: Drawings(train, validation, None, "vinyals", "0" * 12)
    )
    trained = ablation.trained_under_memory
    monkeypatch.setattr(
        ablation,
        "trained_under_memory",
        lambda *given, **more: trained(*given, **{**more, "backbone": "conv4"}),
    )
    monkeypatch.setattr(ablation, "MANY_WAY", 10)
    monkeypatch.setattr(ablation, "Recipe", partial(Recipe, n_way=16))
    # Every other row changes a number only.
    names = ("default", "kept", "projection", "by_shot", "first_in_first_out", "last_weights")
    some = {name: change for name, change in CHANGES.items() if name in names or change.slots}
    monkeypatch.setattr(ablation, "CHANGES", some)
    return lambda *more: ablation.main(["--steps", "1", "--episodes", "20", *more])


@pytest.mark.slow
def test_the_whole_ablation_runs_on_drawn_glyphs(run, folders):
    assert run() == 0
    full = {name for name in ablation.CHANGES if name.startswith("full")}
    keys = {f"ablation.{name}.{way}w5s" for name in ablation.CHANGES for way in (20, 48)}
    keys |= {
        f"ablation.{name}.{way}w1s" for name in ablation.CHANGES.keys() - full for way in (20, 48)
    }
    figures = folders.percentages("omniglot_ablation", keys)
    # The same encoder with room enough: without a second shot nothing has been averaged.
    for task in ("20w1s", "48w1s"):
        same = figures[f"ablation.first_in_first_out.{task}"]
        assert same == figures[f"ablation.default.{task}"]
    # What is averaged leaves room here: only the queue, which averages nothing, has to give up any.
    assert len({figures[f"ablation.{name}.48w5s"] for name in full}) >= 2
    trainings = {repr((change.recipe, change.memory)) for change in ablation.CHANGES.values()}
    assert len(list(folders.runs.glob("memory_*.pt"))) == len(trainings)
    assert folders.result("omniglot_ablation")["changes"].keys() == ablation.CHANGES.keys()
