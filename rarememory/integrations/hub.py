"""The Hugging Face Hub: a memory, alone or with a classifier, as a repository and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from torch import nn

from rarememory.base.files import write_atomically
from rarememory.base.tensor_files import encoded, read_tensors
from rarememory.classifier import MemoryClassifier
from rarememory.classifier.memory_settings import empty_memory, memory_settings
from rarememory.classifier.saving import check_shapes, copy_tensors, refusals_of
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.updates import Update

TENSORS, CONFIG, VERSION = "model.safetensors", "config.json", 1

CARD = """\
---
{{ card_data }}
---

# {{ title | default("A memory of rare events", true) }}

{{ holds }} It was made with `rarememory`, a few-shot memory for PyTorch after
[Learning to Remember Rare Events](https://arxiv.org/abs/1703.03129), and it is safetensors and
JSON, without pickle.

```python
{{ usage }}
```
"""


class _OnHub(
    ModelHubMixin,
    library_name="rarememory",
    tags=["few-shot-learning", "memory"],
    model_card_template=CARD,
):
    """What is pushed to the Hub: tensors, a config with the settings, and a model card."""

    kind: ClassVar[str]
    _load_tensors: ClassVar[Callable[..., Any]]

    def _save_tensors(self, path: Path) -> dict[str, Any]:
        """Write the tensors; return the settings for the config."""
        raise NotImplementedError

    def _card_fields(self) -> dict[str, str]:
        """What the model card says: what it `holds`, and the `usage`."""
        raise NotImplementedError

    def _save_pretrained(self, save_directory: Path) -> None:
        ours = {
            "kind": self.kind,
            "version": VERSION,
            **self._save_tensors(save_directory / TENSORS),
        }
        text = json.dumps({"rarememory": ours}, indent=2)
        write_atomically(
            save_directory / CONFIG, lambda path: path.write_text(text + "\n", encoding="utf-8")
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        config: Any = None,
        # Until huggingface-hub 1.0 these are passed too.
        proxies: Any = None,
        resume_download: Any = None,
        **options: Any,
    ) -> Any:
        ours = _ours(config, cls.kind, model_id)
        path = Path(model_id) / TENSORS
        if not Path(model_id).is_dir():
            path = Path(
                hf_hub_download(
                    repo_id=model_id,
                    filename=TENSORS,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        if not path.is_file():
            raise FileNotFoundError(f"there is no {TENSORS} in {model_id!r}: save it again")
        return cls._load_tensors(path, ours, **options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, with what it holds and how to use it; keywords go to its template."""
        return super().generate_model_card(*args, **{**self._card_fields(), **kwargs})


class HubMemory(Memory, _OnHub):
    """A `Memory` that goes to the Hugging Face Hub, or to a folder, and comes back to the bit.

    `save_pretrained(folder)`, `push_to_hub("me/birds")` and `from_pretrained(folder or repository)`
    are the mixin's. `from_pretrained` takes `update=`, if the policy was one of your own, and
    `lookup=`, as the search is not saved. A memory that was no `HubMemory` becomes one by its
    `state_dict`.

    Raises:
        ValueError: in `from_pretrained`: the config or the tensors are not a memory's, or newer.
        FileNotFoundError: the folder has no tensors.

    Example:
        >>> import tempfile, torch
        >>> memory = HubMemory(key_dim=4, memory_size=8)
        >>> write = memory.write(torch.eye(4)[:2], torch.tensor([3, 5]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     memory.save_pretrained(folder)
        ...     again = HubMemory.from_pretrained(folder, lookup="torch")
        >>> again(torch.eye(4)[:2]).prediction
        tensor([3, 5])
    """

    kind = "memory"

    def _save_tensors(self, path: Path) -> dict[str, Any]:
        content = encoded(self.state_dict(), {"format": "pt"})
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
        return memory_settings(self)

    @classmethod
    def _load_tensors(
        cls,
        path: Path,
        config: dict[str, Any],
        *,
        update: Update | None = None,
        lookup: str | Lookup = "auto",
    ) -> "HubMemory":
        tensors, _ = read_tensors(path)
        with refusals_of(path):
            memory = empty_memory(config, tensors, update, lookup, cls)
            assert isinstance(memory, cls)
            check_shapes(memory.state_dict(), tensors, path)
            memory.check_stored(tensors)
        copy_tensors(memory.state_dict(), tensors)
        return memory

    def _card_fields(self) -> dict[str, str]:
        size, key_dim = self.keys.shape
        classes = len(self.values[self.state.occupied].unique())
        return {
            "holds": f"{len(self)} of its {size} slots hold keys of width {key_dim}, "
            f"of {classes} values.",
            "usage": "from rarememory.integrations.hub import HubMemory\n\n"
            'memory = HubMemory.from_pretrained("<this repository>")\n'
            f"memory(queries).prediction  # queries [..., {key_dim}]",
        }


class HubClassifier(MemoryClassifier, _OnHub):
    """A `MemoryClassifier` that goes to the Hugging Face Hub, or to a folder, and comes back.

    All but the wrapped model is saved, names and refs with it: whoever may read the repository
    reads them. `from_pretrained(folder or repository, model=...)` takes the model that it was
    learnt with, and `update=`, `lookup=` and `memory_class=` as `load` does. A file of
    `MemoryClassifier.save` becomes one by `HubClassifier.load(path, model)`.

    Raises:
        ValueError: in `from_pretrained`: what is there is no classifier's, newer, or fits another
            model.
        FileNotFoundError: the folder has no tensors.

    Example:
        >>> import tempfile, torch
        >>> model = torch.nn.Linear(4, 2)
        >>> birds = HubClassifier(model, classes=["sparrow", "finch"])
        >>> learnt = birds.learn(torch.eye(4)[:1], ["kea"], refs=["1.png"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     birds.save_pretrained(folder)
        ...     again = HubClassifier.from_pretrained(folder, model=model)
        >>> again.explain(torch.eye(4)[0], k=1)[0].ref
        '1.png'
    """

    kind = "classifier"

    def _save_tensors(self, path: Path) -> dict[str, Any]:
        self.save(path)
        return {}

    @classmethod
    def _load_tensors(
        cls,
        path: Path,
        config: dict[str, Any],
        *,
        model: nn.Module | None = None,
        **options: Any,
    ) -> "HubClassifier":
        return cls.load(path, model, **options)

    def _card_fields(self) -> dict[str, str]:
        size, key_dim = self.memory.keys.shape
        return {
            "holds": f"{len(self.memory)} of its {size} slots hold features of width {key_dim}; "
            f"it knows {len(self.classes)} classes. The model that makes the features is not "
            "included.",
            "usage": "from rarememory.integrations.hub import HubClassifier\n\n"
            'birds = HubClassifier.from_pretrained("<this repository>", model=model)\n'
            "birds.predict(image)",
        }


def _ours(config: Any, kind: str, model_id: str) -> dict[str, Any]:
    """Our part of a config, if it is of this kind.

    Raises:
        ValueError: it is not.
    """
    ours = config.get("rarememory") if isinstance(config, dict) else None
    if not isinstance(ours, dict) or not {"kind", "version"} <= ours.keys():
        raise ValueError(
            f"{model_id!r} has no {CONFIG} of rarememory: give a folder or a repository that "
            "`save_pretrained` or `push_to_hub` made"
        )
    if not isinstance(ours["kind"], str) or type(ours["version"]) is not int:
        raise ValueError(f"{model_id!r} has a {CONFIG} whose kind or version is damaged")
    if ours["kind"] != kind:
        right = {each.kind: each.__name__ for each in (HubMemory, HubClassifier)}
        name = right.get(ours["kind"], "a newer rarememory")
        raise ValueError(f"{model_id!r} holds a {ours['kind']}, no {kind}: read it with {name}")
    if ours["version"] > VERSION:
        raise ValueError(
            f"{model_id!r} is of version {ours['version']}, and this rarememory reads up to "
            f"{VERSION}: upgrade rarememory"
        )
    return ours
