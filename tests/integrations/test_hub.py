"""The Hugging Face Hub: whole folders, through its mixin, without a network."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

pytest.importorskip("huggingface_hub", reason="huggingface-hub is not installed")

from classifiers import at, everything
from huggingface_hub import HfApi, ModelCard
from memories import bits
from safetensors.torch import load_file, save_file
from torch import nn

from rarememory import AverageOrReplace, FirstInFirstOut, MeanMemory, Memory
from rarememory.integrations import hub
from rarememory.integrations.hub import HubClassifier, HubMemory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A request to the Hub fails at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def used(**options):
    memory = HubMemory(3, 6, **options)
    memory.write(torch.randn(9, 3), torch.arange(9) % 4)
    memory.forget(labels=2)
    return memory


@pytest.fixture
def birds():
    head = nn.Linear(2, 3, bias=False)
    birds = HubClassifier(head, classes=["a", "b", "c"], memory_size=8, unknown=("no", 1))
    birds.learn(at(0, 60, 120), ["kea", 7, None], ["1.png", ("q", 2), None])
    birds.forget("b")
    birds.fit_threshold(unknown=at(45, 46, 100), false_accept_rate=0.3)
    birds.about["camera"] = "mine"
    return birds


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("half_precision_copy", [False, True], ids=["", "half_precision_copy"])
@pytest.mark.parametrize("projection", [False, True], ids=["", "projection"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_memory_comes_back_to_the_bit(tmp_path, dtype, projection, half_precision_copy):
    dtype = getattr(torch, dtype)
    memory = used(
        key_dtype=dtype, projection=projection, half_precision_copy=half_precision_copy, seed=7
    )
    memory.save_pretrained(tmp_path)
    again = HubMemory.from_pretrained(tmp_path)
    assert type(again) is HubMemory
    assert (again.half_precision_copy is None) is not half_precision_copy
    queries = torch.randn(5, 3)
    copies = [again, deepcopy(memory), pickle.loads(pickle.dumps(memory))]
    memory.write(queries, torch.arange(5))
    for one in copies:
        assert type(one) is HubMemory
        one.write(queries, torch.arange(5))
        assert {name: part.dtype for name, part in one.state_dict().items()} == {
            name: part.dtype for name, part in memory.state_dict().items()
        }
        for name, part in memory.state_dict().items():
            assert torch.equal(one.state_dict()[name], part), name


def test_the_settings_are_those_at_the_time_of_saving(tmp_path):
    memory = used(margin=0.3, update=AverageOrReplace(2.5), subtract_margin=True, validate=False)
    memory.resize(4)
    memory.k, memory.temperature = 3, 0.5
    memory.save_pretrained(tmp_path)
    again = HubMemory.from_pretrained(tmp_path, lookup="torch")
    assert (again.k, again.temperature, again.margin, len(again.keys)) == (3, 0.5, 0.3, 4)
    assert again.update == AverageOrReplace(2.5) and again.lookup.name == "torch"
    assert again.subtract_margin and not again.validate


def test_a_classifier_comes_back_with_labels_refs_and_remarks(tmp_path, birds):
    birds.save(tmp_path / "birds")
    HubClassifier.load(tmp_path / "birds", birds.model).save_pretrained(tmp_path / "folder")
    again = HubClassifier.from_pretrained(tmp_path / "folder", model=birds.model)
    assert type(again) is HubClassifier
    assert everything(again) == everything(birds) == everything(deepcopy(birds))
    assert again.unknown == ("no", 1) and again.about == {"camera": "mine"}
    assert again.predict(at(0, 60, 120)) == birds.predict(at(0, 60, 120))
    assert again.explain(at(60)[0], k=1)[0].ref == ("q", 2)
    without_model = HubClassifier.from_pretrained(tmp_path / "folder")
    assert without_model.classes == ["a", "c", "kea", 7, None]


def test_a_classifier_over_a_memory_of_means_comes_back_with_one(tmp_path):
    birds = HubClassifier(nn.Identity(), host=False, memory=MeanMemory(2, 4))
    birds.learn(at(0, 40, 90), ["kea", "kea", "weka"])
    birds.save_pretrained(tmp_path)
    again = HubClassifier.from_pretrained(tmp_path, model=birds.model)
    for one in (birds, again):
        one.learn(at(170), ["kea"])
    assert everything(again) == everything(birds) and type(again.memory) is MeanMemory


def test_the_folder_holds_safetensors_json_and_a_card_and_nothing_else(tmp_path, birds):
    for name, thing in (("memory", used()), ("birds", birds)):
        folder = tmp_path / name
        thing.save_pretrained(folder)
        assert files(folder) == ["README.md", "config.json", "model.safetensors"]
        config = json.loads((folder / "config.json").read_text("utf-8"))["rarememory"]
        assert (config["kind"], config["version"]) == (thing.kind, hub.VERSION)
    # Any reader of safetensors has the memory, and so has a plain Memory.
    plain = Memory(3, 6)
    plain.load_state_dict(load_file(tmp_path / "memory" / "model.safetensors"))
    assert len(plain) > 0


def test_the_card_names_the_package_and_says_how_to_use_it(tmp_path, birds):
    for thing, name in ((used(), "HubMemory"), (birds, "HubClassifier")):
        folder = tmp_path / name
        thing.save_pretrained(folder, model_card_kwargs={"title": "Birds of New Zealand"})
        card = ModelCard.load(folder / "README.md")
        assert card.data.library_name == "rarememory" and "few-shot-learning" in card.data.tags
        assert f"{name}.from_pretrained(" in card.text and "# Birds of New Zealand" in card.text
        assert "arxiv.org/abs/1703.03129" in card.text and "None" not in card.text
    assert "knows 5 classes" in card.text
    # What it holds can be said otherwise; and a card of one's own is not overwritten.
    used().save_pretrained(tmp_path, model_card_kwargs={"holds": "All birds of Stewart Island."})
    text = (tmp_path / "README.md").read_text()
    assert "All birds of Stewart Island." in text and "slots hold" not in text
    (tmp_path / "README.md").write_text("my own words")
    used().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"


def test_what_is_pushed_is_what_would_have_been_saved(tmp_path, monkeypatch):
    hub_folder = tmp_path / "hub"

    class Made:
        repo_id = "me/birds"

    def upload(self, *, folder_path, repo_id, **_):
        assert repo_id == "me/birds"
        shutil.copytree(folder_path, hub_folder)

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: Made)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    memory = used()
    memory.push_to_hub("me/birds")
    assert files(hub_folder) == ["README.md", "config.json", "model.safetensors"]

    def download(repo_id, filename, **_):
        assert repo_id == "me/birds"
        return str(hub_folder / filename)

    for module in ("huggingface_hub.hub_mixin", "rarememory.integrations.hub"):
        monkeypatch.setattr(f"{module}.hf_hub_download", download)
    assert bits(HubMemory.from_pretrained("me/birds")) == bits(memory)


def test_a_download_is_asked_for_as_the_user_asked(tmp_path, monkeypatch):
    used().save_pretrained(tmp_path)
    asked = []

    def download(filename, **where):
        asked.append(where)
        return str(tmp_path / filename)

    for module in ("huggingface_hub.hub_mixin", "rarememory.integrations.hub"):
        monkeypatch.setattr(f"{module}.hf_hub_download", download)
    options = {"revision": "v2", "cache_dir": "c", "token": "t", "local_files_only": True}
    HubMemory.from_pretrained("me/birds", force_download=True, **options)
    wanted = {"repo_id": "me/birds", "force_download": True, **options}
    assert [wanted.items() <= one.items() for one in asked] == [True, True]


def test_what_is_not_there_is_refused_by_the_hub(tmp_path):
    with pytest.raises((OSError, ValueError)):
        HubMemory.from_pretrained("me/there-is-no-such-memory", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="Repo id must be in the form"):
        HubMemory.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, r"has no config\.json of rarememory: give a folder"),
        ({"model_type": "bert"}, r"has no config\.json of rarememory: give a folder"),
        ({"rarememory": 1}, r"has no config\.json of rarememory: give a folder"),
        ({"rarememory": {"kind": "memory"}}, r"has no config\.json of rarememory: give a folder"),
        (
            {"rarememory": {"kind": "memory", "version": hub.VERSION + 1}},
            "of version 2, and this rarememory reads up to 1",
        ),
        (
            {"rarememory": {"kind": "classifier", "version": 1}},
            "holds a classifier, no memory: read it with HubClassifier",
        ),
    ],
    ids=["nothing", "foreign", "no dict", "no version", "newer", "other kind"],
)
def test_a_folder_of_another_kind_is_refused_in_a_sentence(tmp_path, config, said):
    if config is not None:
        used().save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        HubMemory.from_pretrained(tmp_path)


def test_a_memory_is_no_classifier(tmp_path, birds):
    used().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a memory, no classifier: read it with HubMemory"):
        HubClassifier.from_pretrained(tmp_path, model=birds.model)


def test_damaged_tensors_are_refused_in_a_sentence(tmp_path):
    used().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no safetensors file, or only a part of one"):
            HubMemory.from_pretrained(tmp_path)
    for name in ("keys", "values"):
        save_file({**tensors, name: tensors[name][:2]}, path)
        with pytest.raises(ValueError, match=rf"has \[2.*\] for {name}, and it must be \[6"):
            HubMemory.from_pretrained(tmp_path)
        save_file({other: part for other, part in tensors.items() if other != name}, path)
        with pytest.raises(ValueError, match=f"has nothing for {name}"):
            HubMemory.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no model\.safetensors in"):
        HubMemory.from_pretrained(tmp_path)


class KeepAll(FirstInFirstOut):
    pass


def test_a_policy_of_ones_own_has_to_be_given_again(tmp_path):
    used(update=KeepAll()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="KeepAll, which is not ours: give update="):
        HubMemory.from_pretrained(tmp_path)
    assert HubMemory.from_pretrained(tmp_path, update=KeepAll()).update == KeepAll()


def test_a_word_that_means_nothing_is_not_swallowed(tmp_path, birds):
    used().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="lookpu"):
        HubMemory.from_pretrained(tmp_path, lookpu="torch")
    with pytest.raises(TypeError, match="model"):
        HubMemory.from_pretrained(tmp_path, model=birds.model)


def test_a_round_trip_needs_no_network(tmp_path):
    code = (
        "import sys, torch; from rarememory.integrations.hub import HubMemory;"
        "m = HubMemory(2, 3); m.write(torch.eye(2), torch.tensor([4, 5])); folder = sys.argv[1];"
        "m.save_pretrained(folder); print(HubMemory.from_pretrained(folder).values.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "folder")],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[4, 5, -1]"
