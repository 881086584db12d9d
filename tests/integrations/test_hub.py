"""The door to the Hugging Face Hub: whole folders, through the mixin, without a network."""

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
    """Whoever asks the Hub for anything fails at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def lived(**options):
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
    memory = lived(
        key_dtype=dtype, projection=projection, half_precision_copy=half_precision_copy, seed=7
    )
    memory.save_pretrained(tmp_path)
    again = HubMemory.from_pretrained(tmp_path)
    assert (
        type(again) is HubMemory and (again.half_precision_copy is None) is not half_precision_copy
    )
    assert {name: part.dtype for name, part in again.state_dict().items()} == {
        name: part.dtype for name, part in memory.state_dict().items()
    }
    for name, part in memory.state_dict().items():
        assert torch.equal(again.state_dict()[name], part), name


def test_the_settings_are_those_at_the_time_of_saving(tmp_path):
    memory = lived(margin=0.3, update=AverageOrReplace(2.5), subtract_margin=True, validate=False)
    memory.resize(4)
    memory.k, memory.temperature = 3, 0.5
    memory.save_pretrained(tmp_path)
    again = HubMemory.from_pretrained(tmp_path, lookup="torch")
    assert (again.k, again.temperature, again.margin, len(again.keys)) == (3, 0.5, 0.3, 4)
    assert again.update == AverageOrReplace(2.5) and again.lookup.name == "torch"
    assert again.subtract_margin and not again.validate


def test_life_goes_on_as_it_would_have_without(tmp_path):
    one = lived()
    one.save_pretrained(tmp_path)
    other = HubMemory.from_pretrained(tmp_path)
    queries = torch.randn(5, 3)
    for memory in (one, other):
        memory.write(queries, torch.arange(5))
    assert bits(one) == bits(other)


def test_a_classifier_comes_back_with_names_refs_and_remarks(tmp_path, birds):
    birds.save_pretrained(tmp_path)
    again = HubClassifier.from_pretrained(tmp_path, model=birds.model)
    assert type(again) is HubClassifier and everything(again) == everything(birds)
    assert again.unknown == ("no", 1) and again.about == {"camera": "mine"}
    assert again.predict(at(0, 60, 120)) == birds.predict(at(0, 60, 120))
    assert again.explain(at(60)[0], k=1)[0].ref == ("q", 2)
    seen = HubClassifier.from_pretrained(tmp_path)
    assert seen.classes == ["a", "c", "kea", 7, None]


def test_a_classifier_over_a_memory_of_means_comes_back_with_one(tmp_path):
    birds = HubClassifier(nn.Identity(), host=False, memory=MeanMemory(2, 4))
    birds.learn(at(0, 40, 90), ["kea", "kea", "weka"])
    birds.save_pretrained(tmp_path)
    again = HubClassifier.from_pretrained(tmp_path, model=birds.model)
    for one in (birds, again):
        one.learn(at(170), ["kea"])
    assert everything(again) == everything(birds) and type(again.memory) is MeanMemory


def test_a_file_of_a_plain_classifier_becomes_one_for_the_hub(tmp_path, birds):
    birds.save(tmp_path / "birds")
    again = HubClassifier.load(tmp_path / "birds", birds.model)
    again.save_pretrained(tmp_path / "folder")
    once_more = HubClassifier.from_pretrained(tmp_path / "folder", model=birds.model)
    assert everything(once_more) == everything(birds)


def test_the_folder_holds_safetensors_json_and_a_card_and_nothing_else(tmp_path, birds):
    for name, thing in (("memory", lived()), ("birds", birds)):
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
    for thing, name in ((lived(), "HubMemory"), (birds, "HubClassifier")):
        folder = tmp_path / name
        thing.save_pretrained(folder, model_card_kwargs={"title": "Birds of New Zealand"})
        card = ModelCard.load(folder / "README.md")
        assert card.data.library_name == "rarememory" and "few-shot-learning" in card.data.tags
        assert f"{name}.from_pretrained(" in card.text and "# Birds of New Zealand" in card.text
        assert "arxiv.org/abs/1703.03129" in card.text and "None" not in card.text
    assert "knows 5 classes" in card.text


def test_what_the_card_says_can_be_said_otherwise(tmp_path):
    lived().save_pretrained(
        tmp_path, model_card_kwargs={"holds": "All the birds of Stewart Island."}
    )
    text = (tmp_path / "README.md").read_text()
    assert "All the birds of Stewart Island." in text and "slots hold" not in text


def test_a_card_of_ones_own_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("my own words")
    lived().save_pretrained(tmp_path)
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
    memory = lived()
    memory.push_to_hub("me/birds")
    assert files(hub_folder) == ["README.md", "config.json", "model.safetensors"]

    def download(repo_id, filename, **_):
        assert repo_id == "me/birds"
        return str(hub_folder / filename)

    for module in ("huggingface_hub.hub_mixin", "rarememory.integrations.hub"):
        monkeypatch.setattr(f"{module}.hf_hub_download", download)
    assert bits(HubMemory.from_pretrained("me/birds")) == bits(memory)


def test_a_download_is_asked_for_as_the_user_asked(tmp_path, monkeypatch):
    lived().save_pretrained(tmp_path)
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


def changed(folder, **ours):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["rarememory"].update(ours)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def test_a_foreign_folder_is_refused_in_a_sentence(tmp_path):
    sentence = r"has no config\.json of rarememory: give a folder"
    with pytest.raises(ValueError, match=sentence):
        HubMemory.from_pretrained(tmp_path)
    lived().save_pretrained(tmp_path)
    for config in (
        '{"model_type": "bert"}',
        '{"rarememory": 1}',
        '{"rarememory": {"kind": "memory"}}',
    ):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=sentence):
            HubMemory.from_pretrained(tmp_path)


def test_the_other_kind_is_refused_with_the_name_of_the_right_one(tmp_path, birds):
    birds.save_pretrained(tmp_path / "birds")
    lived().save_pretrained(tmp_path / "memory")
    with pytest.raises(ValueError, match="holds a classifier, no memory: read it with HubClassif"):
        HubMemory.from_pretrained(tmp_path / "birds")
    with pytest.raises(ValueError, match="holds a memory, no classifier: read it with HubMemory"):
        HubClassifier.from_pretrained(tmp_path / "memory", model=birds.model)


def test_a_newer_folder_is_refused_in_a_sentence(tmp_path):
    lived().save_pretrained(tmp_path)
    changed(tmp_path, version=hub.VERSION + 1)
    with pytest.raises(ValueError, match="of version 2, and this rarememory reads up to 1"):
        HubMemory.from_pretrained(tmp_path)


def test_damaged_tensors_are_refused_in_a_sentence(tmp_path):
    lived().save_pretrained(tmp_path)
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
    lived(update=KeepAll()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="KeepAll, which is not ours: give update="):
        HubMemory.from_pretrained(tmp_path)
    assert HubMemory.from_pretrained(tmp_path, update=KeepAll()).update == KeepAll()


def test_a_word_that_means_nothing_is_not_swallowed(tmp_path, birds):
    lived().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="lookpu"):
        HubMemory.from_pretrained(tmp_path, lookpu="torch")
    with pytest.raises(TypeError, match="model"):
        HubMemory.from_pretrained(tmp_path, model=birds.model)


def test_it_is_copied_and_pickled_as_any_memory_is(birds):
    memory = lived()
    for again in (deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert type(again) is HubMemory and bits(again) == bits(memory)
    assert everything(deepcopy(birds)) == everything(birds)


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
