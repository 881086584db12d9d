"""A model that is compiled, or in a wrapper of torch, answers as it does without."""

from copy import deepcopy
from threading import Barrier, Thread

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


class Lit(nn.Module):
    """A model as a LightningModule has it, inside."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def head_compiled_in_place(model):
    model.module.compile(backend="eager")
    return model


def head_compiled(model):
    model.module = compiled(model.module)
    return model


INSIDE = {
    "plain": lambda model: model,
    "compiled": compiled,
    "in place": compiled_in_place,
    "head": head_compiled,
    "head in place": head_compiled_in_place,
}


def stance():
    return torch._dynamo.eval_frame._stance.stance


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
def test_the_head_may_be_in_a_part_that_is_compiled(inside):
    classifier, again = (wrap(Lit(one(network())), memory_size=8) for one in (deepcopy, inside))
    for each in (classifier, again):
        with torch.no_grad():
            each.model(INPUTS)
        each.learn(INPUTS, list("abcde"))
        assert each.predict(INPUTS) == list("abcde")
    assert torch.equal(again.memory.keys, classifier.memory.keys)
    assert again.classes == classifier.classes and stance() == "default"
    again.loss(INPUTS, list("edcba")).backward()


@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("saved_inside", INSIDE.values(), ids=INSIDE)
def test_a_memory_is_loaded_where_another_part_is_compiled(inside, saved_inside, tmp_path):
    classifier = wrap(Lit(saved_inside(network())), memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    classifier.save(tmp_path / "birds")
    again = MemoryClassifier.load(tmp_path / "birds", Lit(inside(network())))
    assert again.predict(INPUTS) == list("abcde")
    again = wrap(Lit(inside(network())), memory_size=8)
    again.load_state_dict(classifier.state_dict())
    assert again.predict(INPUTS) == list("abcde")


def test_a_compiled_part_without_the_head_runs_as_its_program():
    programs = []
    # Of one code, torch compiles only so many programs, and runs it without one from there on.
    torch.compiler.reset()

    def backend(graph, _):
        def run(*args):
            programs.append(stance())
            return graph(*args)

        return run

    body = torch.compile(nn.Sequential(nn.Linear(6, 16), nn.ReLU()), backend=backend)
    classifier = wrap(nn.Sequential(body, nn.Linear(16, 3)), memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    assert classifier.extractor.at == "1" and not programs
    assert classifier.predict(INPUTS) == list("abcde")
    assert programs == ["default"]


def test_threads_set_compiled_programs_aside_until_the_last_of_them_ends():
    class Meeting(nn.Module):
        def forward(self, x):
            seen.append(stance())
            both.wait(60)
            return x

    seen, both = [], Barrier(2, timeout=60)
    parts = [nn.Linear(6, 3), Meeting()]
    classifiers = [wrap(Lit(compiled(nn.Sequential(*deepcopy(parts[:1]), parts[1])))) for _ in "ab"]
    threads = [Thread(target=one.features, args=(INPUTS,)) for one in classifiers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["force_eager"] * 2 and stance() == "default"


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_scripted_encoder_and_a_scripted_part_are_wrapped():
    script = torch.jit.script(nn.Sequential(nn.Linear(6, 16), nn.ReLU()))
    for model, host, at in (
        (script, False, None),
        (nn.Sequential(script, nn.Linear(16, 3)), 1, "1"),
    ):
        classifier = wrap(model, host=bool(host), memory_size=8)
        classifier.learn(INPUTS, list("abcde"))
        assert classifier.predict(INPUTS) == list("abcde") and classifier.extractor.at == at
        torch.testing.assert_close(classifier.features(INPUTS), script(INPUTS).detach())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("whole", [True, False])
def test_a_scripted_head_is_refused_with_what_to_write(whole):
    head = torch.jit.script(nn.Linear(16, 3))
    model = nn.Sequential(nn.Linear(6, 16), head)
    named = "the model" if whole else "the part '1'"
    said = rf"^{named} is scripted, and no layer is seen .*given to torch.jit, or say host=False"
    with pytest.raises(ValueError, match=said):
        wrap(torch.jit.script(model) if whole else model).predict(INPUTS)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("at", ["0.0", "0"])
def test_a_layer_in_a_scripted_part_is_refused_with_what_to_write(at, host):
    script = torch.jit.script(nn.Sequential(nn.Linear(6, 16), nn.ReLU()))
    said = r"^the part '0' is scripted, .* or say host=False, without at=, to remember what"
    with pytest.raises(ValueError, match=said):
        wrap(nn.Sequential(script, nn.Linear(16, 3)), at=at, host=host)
    with pytest.raises(ValueError, match=r"^the model is scripted, .*, without at="):
        wrap(script, at="0", host=host)
    # A layer beside it is seen.
    wrap(nn.Sequential(script, nn.Linear(16, 3)), at="1", host=host).predict(INPUTS)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_two_heads_after_a_scripted_part_are_named():
    class Averaged(Lit):
        def forward(self, x):
            states = self.model(x)
            return self.one(states) + self.two(states)

    model = Averaged(torch.jit.script(nn.Linear(6, 16)))
    model.one, model.two = nn.Linear(16, 3), nn.Linear(16, 3)
    with pytest.raises(ValueError, match="as many numbers come from 'one', 'two': name the layer"):
        wrap(model).predict(INPUTS)
