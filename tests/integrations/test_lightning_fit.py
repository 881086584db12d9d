"""The callback of Lightning in a training: its support, what it leaves alone, checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="lightning is not installed")

from integrations import two_processes
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from rarememory.integrations.lightning import MemoryCallback
from tests.integrations.test_lightning import Classifier, batches, trainer_of, validated

ROOT = Path(__file__).resolve().parents[2]

# Python warns of the workers of loaders where it finds threads.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*use of fork.*:DeprecationWarning")


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
