"""The callback of Lightning in one validation: features, accuracies, loaders, what is refused."""

import pytest
import torch

pytest.importorskip("lightning", reason="lightning is not installed")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

from rarememory import Memory
from rarememory.integrations.lightning import MemoryCallback

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
    options = {"max_epochs": 1, "enable_checkpointing": False, "logger": False, **options}
    return Trainer(
        accelerator="cpu",
        devices=1,
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


def test_the_numbers_of_the_memory_are_logged_when_asked_for():
    support = batches(5, 2)
    logged = validated(MemoryCallback(support, stats=True, prefix="few"))
    assert logged["few/occupied"] == logged["few/slots"] == 7
    assert logged["few/classes"] == len({int(y) for _, labels in support.batches for y in labels})
    assert "few/fill" not in validated(MemoryCallback(support, prefix="few"))


class Pictures(Logger):
    """A logger that keeps the figures it gets, as TensorBoard's or as that of Weights & Biases."""

    name, version = "pictures", 0

    def __init__(self, tensorboard):
        super().__init__()
        self.figures = {}
        self.experiment = self if tensorboard else None
        if not tensorboard:
            self.log_image = lambda key, images, step: self.add_figure(key, images[0], step)

    def add_figure(self, key, figure, step):
        self.figures[key] = figure

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


@pytest.mark.parametrize("tensorboard", [True, False])
def test_loggers_that_take_pictures_get_those_of_the_memory(tensorboard, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    logger, callback = Pictures(tensorboard), MemoryCallback(batches(9, 2), plots=True)
    logged = validated(callback, logger=[logger, CSVLogger(tmp_path)])
    assert {*logger.figures} == {"memory/keys", "memory/ages", "memory/confusions"}
    picture = logger.figures["memory/confusions"].axes[0]
    labels = torch.cat([y for _, y in batches(7, 7, 3, seed=1).batches]).tolist()
    names = [int(text.get_text()) for text in picture.get_yticklabels()]
    shares = {name: row for name, row in zip(names, picture.images[0].get_array(), strict=True)}
    # The rows are classes: each of those that have examples is divided among its answers.
    assert {name for name, row in shares.items() if row.sum() > 0.5} == {*labels}
    right = sum(shares[label][names.index(label)] for label in labels)
    assert right / len(labels) == pytest.approx(logged["memory/accuracy"], abs=1e-6)
    logger.figures.clear()
    validated(MemoryCallback(batches(5, 2)), logger=logger)
    assert not logger.figures
