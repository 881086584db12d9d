import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="lightning is not installed")

from integrations import two_processes
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from rarememory import Memory
from rarememory.integrations.lightning import MemoryCallback

ROOT = Path(__file__).resolve().parents[2]

# Python warns of the workers of loaders where it finds threads.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*use of fork.*:DeprecationWarning")


class Batches:
    """A loader of given batches."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


class Classifier(LightningModule):
    """A body and a head; it counts the calls of its body."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(8, 3)
        self.calls, self.seen = 0, []
        self.body.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def forward(self, inputs):
        return self.head(self.body(inputs))

    def embed(self, inputs):
        return self.body(inputs) ** 3

    def training_step(self, batch, index):
        self.seen += batch[0][:, 0].tolist()
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index, dataloader_idx=0):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class NoStep(Classifier):
    def validation_step(self, batch, index, dataloader_idx=0):
        pass


def batches(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, 4, generator=generator) for size in sizes]
    return Batches(*[(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()) for x in inputs])


def trainer_of(*callbacks, **options):
    options = {"max_epochs": 1, "enable_checkpointing": False, **options}
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def validated(callback, module=None, loaders=None, **options):
    """What is logged in a validation of the module."""
    trainer = trainer_of(callback, **options)
    module = Classifier() if module is None else module
    trainer.validate(module, loaders or batches(7, 7, 3, seed=1), verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def looped(encode, support, queries):
    """The accuracy of the row of the support at the greatest cosine, by loops."""
    correct = total = 0
    rows = [(encode(x[i : i + 1])[0], y[i]) for x, y in support.batches for i in range(len(x))]
    for x, y in queries.batches:
        for i in range(len(x)):
            query = encode(x[i : i + 1])[0]
            cosines = [torch.cosine_similarity(query, key, dim=0) for key, _ in rows]
            correct += int(rows[int(torch.stack(cosines).argmax())][1] == y[i])
            total += 1
    return correct / total


@pytest.mark.parametrize(
    ("features", "encode"),
    [
        (None, lambda module: module.body),
        ("body", lambda module: module.body),
        ("head", lambda module: module),
        (Classifier.embed, lambda module: module.embed),
    ],
    ids=["input of the last Linear", "a layer", "the head", "a method"],
)
@pytest.mark.parametrize("kind", [Classifier, NoStep])
def test_the_logged_accuracy_is_that_of_a_loop(kind, features, encode):
    module, support, queries = kind(), batches(5, 2), batches(7, 7, 3, seed=1)
    logged = validated(MemoryCallback(support, features=features), module, queries)
    with torch.no_grad():
        expected = looped(encode(module.eval()), support, queries)
    assert 0.2 < expected < 1
    assert logged == {"memory/accuracy": pytest.approx(expected)}


def test_without_a_linear_the_features_are_the_output():
    class Plain(LightningModule):
        def forward(self, inputs):
            return inputs[:, :2]

        def validation_step(self, batch, index):
            self(-batch[0])

    support, queries = batches(9), batches(20, seed=1)
    logged = validated(MemoryCallback(support), Plain(), queries)
    assert logged["memory/accuracy"] == pytest.approx(looped(lambda x: x[:, :2], support, queries))


def test_a_map_is_averaged_over_height_and_width():
    support, queries = batches(9), batches(20, seed=1)
    spread = lambda _, inputs: torch.stack([inputs - 1, inputs + 1], 2).unsqueeze(3)  # noqa: E731
    logged = validated(MemoryCallback(support, features=spread), None, queries)
    assert logged["memory/accuracy"] == pytest.approx(looped(lambda x: x, support, queries))


@pytest.mark.parametrize(
    ("kind", "features", "calls"),
    [(Classifier, None, 2 + 3), (NoStep, None, 2 + 3), (Classifier, Classifier.embed, 2 + 2 * 3)],
)
def test_features_that_the_step_has_computed_are_not_computed_again(kind, features, calls):
    module = kind()
    validated(MemoryCallback(batches(5, 2), features=features), module)
    assert module.calls == calls


def test_features_of_a_step_that_runs_the_layer_otherwise_are_not_used():
    class Twice(Classifier):
        def validation_step(self, batch, index, dataloader_idx=0):
            self(-batch[0])
            self(-batch[0])

    class Half(Classifier):
        def validation_step(self, batch, index, dataloader_idx=0):
            self(-batch[0][::2])

    for kind in (Twice, Half):
        module, support, queries = kind(), batches(5, 2), batches(7, 7, 3, seed=1)
        logged = validated(MemoryCallback(support), module, queries)
        with torch.no_grad():
            expected = looped(module.eval().body, support, queries)
        assert logged == {"memory/accuracy": pytest.approx(expected)}


def test_the_input_of_a_layer_may_be_a_keyword():
    class Named(Classifier):
        def forward(self, inputs):
            return self.head(input=self.body(input=inputs))

    module = Named()
    assert validated(MemoryCallback(batches(5)), module)
    assert module.calls == 1 + 3


def test_callbacks_of_lightning_can_monitor_the_accuracy(tmp_path):
    patience = EarlyStopping("memory/accuracy", patience=1, min_delta=1.0, mode="max")
    best = ModelCheckpoint(tmp_path, "{memory/accuracy}", "memory/accuracy", mode="max")
    trainer = trainer_of(MemoryCallback(), patience, best, max_epochs=9, enable_checkpointing=True)
    trainer.fit(Classifier(), batches(8, 8), batches(8, seed=1))
    assert trainer.current_epoch == 2
    assert best.best_model_score > 0 and best.best_model_path
    saved = torch.load(best.best_model_path, weights_only=True)
    assert not any("MemoryCallback" in key for key in saved["callbacks"])
    assert not any("memory" in key for key in saved["state_dict"])


def test_several_validation_loaders_are_logged_separately():
    module, support = Classifier(), batches(6)
    loaders = [batches(7, 4, seed=1), batches(9, seed=2)]
    logged = validated(MemoryCallback(support, prefix="new"), module, loaders)
    with torch.no_grad():
        expected = [looped(module.eval().body, support, queries) for queries in loaders]
    assert logged == {
        f"new/accuracy/dataloader_idx_{i}": pytest.approx(each) for i, each in enumerate(expected)
    }


def test_batches_of_any_type_can_be_unpacked():
    def as_dicts(pairs):
        return Batches(*[{"x": x, "y": y.tolist()} for x, y in pairs.batches])

    module, support, queries = NoStep(), batches(6, 3), batches(8, seed=1)
    callback = MemoryCallback(as_dicts(support), unpack=lambda batch: (batch["x"], batch["y"]))
    expected = validated(MemoryCallback(support), module, queries)
    assert validated(callback, module, as_dicts(queries)) == expected


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": torch.zeros(2, 4)}, r"\(inputs, labels\), not a dict: give unpack="),
        ((torch.zeros(2, 4),) * 3, "not a tuple of 3: give unpack="),
        ((torch.zeros(2, 4), torch.eye(2)), r"labels must be \[batch\], not \[2, 2\]"),
    ],
)
def test_a_batch_that_is_no_pair_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        validated(MemoryCallback(Batches(batch)))


def test_bad_layers_features_and_supports_are_refused():
    class Apart(Classifier):
        def forward(self, inputs):
            return self.body(inputs)

    with pytest.raises(ValueError, match=r"Classifier has no layer 'neck'; its last are 'body.1'"):
        validated(MemoryCallback(batches(4), features="neck"))
    with pytest.raises(ValueError, match="has no layer 'neck'"):  # in the sanity check already
        trainer_of(MemoryCallback(features="neck")).fit(Classifier(), batches(4), batches(4))
    with pytest.raises(ValueError, match="the layer 'head' did not run"):
        validated(MemoryCallback(batches(4), features="head"), Apart())
    with pytest.raises(ValueError, match=r"\[batch, key_dim\], not \[4, 4, 1\]"):
        validated(MemoryCallback(batches(4), features=lambda _, inputs: inputs.unsqueeze(2)))
    with pytest.raises(ValueError, match=r"\[batch, key_dim\], not tuple"):
        validated(MemoryCallback(batches(4), features=lambda _, inputs: (inputs,)))
    with pytest.raises(ValueError, match="support of MemoryCallback has no examples"):
        validated(MemoryCallback(batches()))
    with pytest.raises(ValueError, match="n_batches must be an integer of at least 1, not 0"):
        MemoryCallback(n_batches=0)


def shuffled(n_batches, generator=None, **options):
    inputs = torch.randn(8 * n_batches, 4, generator=torch.Generator().manual_seed(7))
    data = TensorDataset(inputs, (inputs[:, 0] > 0).long())
    return DataLoader(data, 8, num_workers=1, generator=generator, **options)


@pytest.mark.parametrize("seeded", ["by torch", "by a generator", "by a sampler"])
def test_the_callback_does_not_change_the_training(seeded):
    def trained(*callbacks):
        torch.manual_seed(3)
        options = {"shuffle": True}
        if seeded == "by a generator":
            options["generator"] = torch.Generator().manual_seed(5)
        if seeded == "by a sampler":
            own = RandomSampler(range(32), generator=torch.Generator().manual_seed(5))
            options = {"sampler": own}
        module = Classifier(dropout=0.5)
        module.body[0].requires_grad_(False)
        trainer = trainer_of(*callbacks, max_epochs=2, val_check_interval=0.5)
        trainer.fit(module, shuffled(4, **options), batches(8, seed=1))
        modes = [each.training for each in module.modules()]
        wants = [each.requires_grad for each in module.parameters()]
        return module.state_dict(), modes, wants, module.seen, torch.rand(3)

    torch.testing.assert_close(trained(MemoryCallback()), trained(), rtol=0, atol=0)


def test_the_modes_of_modules_are_restored():
    class Watched(Classifier):
        modes = ()

        def forward(self, inputs):
            self.modes = (*self.modes, [each.training for each in (self.body, self.head)])
            return super().forward(inputs)

        def on_validation_model_eval(self):
            self.train()
            self.body.eval()

    module = Watched()
    validated(MemoryCallback(batches(5)), module, batches(4))
    # In evaluation mode for the support, in the modes of the module in the step.
    assert module.modes == ([False, False], [False, True])


def test_persistent_workers_are_not_restarted():
    module = Classifier()
    loader = shuffled(6, shuffle=True, persistent_workers=True)
    trainer_of(MemoryCallback(n_batches=1), val_check_interval=2).fit(
        module, loader, batches(4, seed=1)
    )
    assert sorted(module.seen) == sorted(loader.dataset.tensors[0][:, 0].tolist())


@pytest.mark.parametrize("seeded", ["by torch", "by a generator"])
def test_every_validation_has_the_same_support(seeded):
    class Watched(MemoryCallback):
        stored = ()

        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.stored = (*self.stored, self.memory.keys.clone())

    callback = Watched(n_batches=2, features=lambda module, inputs: inputs)
    generator = torch.Generator().manual_seed(5) if seeded == "by a generator" else None
    trainer_of(callback, max_epochs=3).fit(
        Classifier(), shuffled(4, shuffle=True, generator=generator), batches(8)
    )
    assert len(callback.stored) == 3 and callback.stored[0].shape == (16, 4)
    for later in callback.stored[1:]:
        assert torch.equal(later, callback.stored[0])


def test_the_support_is_limited_as_the_training_is():
    callback = MemoryCallback()
    trainer_of(callback, limit_train_batches=2).fit(Classifier(), batches(5, 4, 3), batches(6))
    assert len(callback.memory) == 9
    for callback in (MemoryCallback(n_batches=1), MemoryCallback(batches(5, 4), n_batches=1)):
        trainer_of(callback).fit(Classifier(), batches(5, 4, 3), batches(6))
        assert len(callback.memory) == 5


def test_the_sanity_check_has_a_given_support_only():
    class Sane(MemoryCallback):
        filled = ()

        def on_validation_epoch_end(self, trainer, pl_module):
            self.filled = (*self.filled, (trainer.sanity_checking, self.memory is not None))

    for support, in_check in ((None, False), (batches(5), True)):
        callback = Sane(support)
        trainer_of(callback).fit(Classifier(), batches(8), batches(4))
        assert callback.filled == ((True, in_check), (False, True))


def test_without_training_data_it_warns_and_logs_nothing():
    with pytest.warns(UserWarning, match="MemoryCallback logs nothing: .* give support="):
        assert validated(MemoryCallback()) == {}


def test_features_that_are_zero_or_not_finite_are_not_written_and_wrong():
    def features(module, inputs):
        return torch.where(inputs[:, :1] > 5, inputs.new_tensor([float("nan")]), inputs[:, 1:])

    inputs = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0], [9, 1, 0, 0], [0, 0, 1, 0]])
    batch = Batches((inputs, torch.tensor([0, 0, 1, 1])))
    callback = MemoryCallback(batch, features=features)
    assert validated(callback, None, batch) == {"memory/accuracy": 0.5}
    assert len(callback.memory) == 2


def test_the_memory_can_be_given():
    callback = MemoryCallback(batches(9), memory=lambda key_dim: Memory(key_dim, 4, lookup="torch"))
    validated(callback)
    assert len(callback.memory) == 4 and callback.memory.lookup.name == "torch"


def test_the_memory_can_be_trained_under_afterwards():
    callback, module = MemoryCallback(batches(9)), Classifier()
    validated(callback, module)
    inputs, labels = batches(6, seed=4).batches[0]
    assert not callback.memory.keys.is_inference()
    callback.memory(module.body(inputs), labels).loss.backward()
    assert module.body[0].weight.grad is not None
    callback.memory.write(module.body(inputs), labels)
    assert not module.head.weight.requires_grad or module.head.weight.grad is None


def test_a_checkpoint_holds_the_memory_when_queries_to(tmp_path):
    callback = MemoryCallback(batches(5), save=True)
    second = MemoryCallback(batches(7), prefix="second", save=True)
    trainer = trainer_of(callback, second)
    trainer.fit(Classifier(), batches(8), batches(4))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    again, anew = MemoryCallback(), MemoryCallback(prefix="second")
    later = trainer_of(again, anew)
    later.fit(Classifier(), batches(8), batches(4), ckpt_path=tmp_path / "saved.ckpt")
    for before, after, size in ((callback, again, 5), (second, anew, 7)):
        assert len(after.memory) == size
        assert torch.equal(before.memory.keys, after.memory.keys)
        assert torch.equal(before.memory.values, after.memory.values)


def test_an_error_in_the_step_leaves_no_hook():
    class Failing(Classifier):
        def validation_step(self, batch, index, dataloader_idx=0):
            raise RuntimeError("expected")

    module = Failing()
    with pytest.raises(RuntimeError, match="expected"):
        validated(MemoryCallback(batches(5)), module)
    assert not module.head._forward_pre_hooks


def test_it_works_in_bfloat16():
    logged = validated(MemoryCallback(batches(9)), Classifier(), precision="bf16-mixed")
    assert 0 < logged["memory/accuracy"] <= 1
    assert validated(MemoryCallback(batches(9)), Classifier(), precision="bf16-true")


@pytest.mark.usefixtures("unchecked")
def test_a_trainer_of_pytorch_lightning_takes_it_too():
    old = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")

    class Plain(old.LightningModule):
        forward = Classifier.forward
        validation_step = Classifier.validation_step

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    callback = MemoryCallback(batches(9))
    trainer = old.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback],
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(Plain(), batches(6), verbose=False)
    assert 0 <= trainer.callback_metrics["memory/accuracy"] <= 1


@pytest.mark.slow
def test_two_processes_have_the_result_of_one_and_divide_the_work(tmp_path):
    result = subprocess.run(
        [sys.executable, two_processes.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    alone = two_processes.found(1)
    assert first["counted"] == second["counted"] == alone["counted"]
    for support in ("given", "a batch", "training"):
        one, mine, other = (each[support] for each in (alone, first, second))
        assert mine["keys"] == other["keys"]
        assert len(one["keys"]) == {"given": 13, "a batch": 4, "training": 24}[support]
        torch.testing.assert_close(torch.tensor(mine["keys"]), torch.tensor(one["keys"]))
        assert mine["accuracy"] == other["accuracy"] == pytest.approx(one["accuracy"])
        assert max(mine["calls"], other["calls"]) < one["calls"]
