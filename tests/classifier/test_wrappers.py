"""A model that is compiled, or in a wrapper of torch, answers as it does without."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

from rarememory import MemoryClassifier, wrap

INPUTS = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.5))
    model.add_module("module", nn.Linear(40, 3))
    return model


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled(model):
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "plain": lambda model: model,
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "DataParallel": DataParallel,
    "averaged": AveragedModel,
    "both": lambda model: DataParallel(compiled(model)),
}


@pytest.fixture(params=WRAPPERS.values(), ids=WRAPPERS)
def around(request):
    return request.param


def test_a_wrapped_model_answers_as_it_does_without(around):
    classifier, again = wrap(network(), memory_size=8), wrap(around(network()), memory_size=8)
    for each in (classifier, again):
        each.model(INPUTS)
        each.learn(INPUTS, list("abcde"))
    assert again.extractor.at == "module"
    assert torch.equal(again.memory.keys, classifier.memory.keys)
    answers, others = classifier.predict_proba(INPUTS), again.predict_proba(INPUTS)
    assert torch.equal(answers.values, others.values) and answers.classes == others.classes
    again.loss(INPUTS, list("edcba")).backward()
    assert again.model.training


@pytest.mark.parametrize("saved_around", WRAPPERS.values(), ids=WRAPPERS)
def test_a_memory_saved_around_one_loads_around_the_other(around, saved_around, tmp_path):
    classifier = wrap(saved_around(network()), memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    classifier.save(tmp_path / "birds")
    again = MemoryClassifier.load(tmp_path / "birds", around(network()))
    assert again.predict(INPUTS) == list("abcde")


def test_a_checkpoint_of_one_loads_around_the_other(around):
    for saved_around in WRAPPERS.values():
        classifier = wrap(saved_around(network()), memory_size=8)
        classifier.learn(INPUTS, list("abcde"))
        again = wrap(around(deepcopy(network())), memory_size=8)
        state = classifier.state_dict()
        if isinstance(classifier.model, AveragedModel) != isinstance(again.model, AveragedModel):
            missing = again.load_state_dict(state, strict=False)
            names = [*missing.missing_keys, *missing.unexpected_keys]
            assert names == ["extractor.model.n_averaged"]
        else:
            again.load_state_dict(state)
        assert again.predict(INPUTS) == list("abcde")


@pytest.mark.parametrize("at", ["module", "module.module", "module._orig_mod.module"])
def test_a_layer_may_be_named_with_the_prefixes_of_wrappers(at, around):
    assert wrap(around(network()), at=at).extractor.at == "module"


def test_an_older_file_names_its_layer_with_them(tmp_path):
    classifier = wrap(DataParallel(network()), memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    classifier.extractor.at = "module.module"
    classifier.save(tmp_path / "birds")
    assert MemoryClassifier.load(tmp_path / "birds", network()).predict(INPUTS) == list("abcde")


@pytest.mark.parametrize("compile_part", [compiled, compiled_in_place])
def test_the_head_may_follow_a_part_that_is_compiled(compile_part):
    model = nn.Sequential(
        compile_part(nn.Sequential(nn.Linear(6, 16), nn.ReLU())), nn.Linear(16, 3)
    )
    classifier = wrap(model, memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    assert classifier.predict(INPUTS) == list("abcde")
