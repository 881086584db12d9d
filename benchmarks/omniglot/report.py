"""One page about an encoder on Omniglot's evaluation characters, with pictures of them.

    python -m benchmarks.omniglot.report --encoder <weights> --data <folder>

The page is made on your machine, from your copy of the drawings: curves of the committed result, a
map of embeddings, and the confusions that happen most, drawing by drawing. It is one file without
scripts, runs/omniglot_report.html, to be opened by any browser.
"""

import base64
import html
import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import Tensor

from benchmarks.results import RESULTS, sha256
from benchmarks.runner import Benchmark, Run
from rarememory import Memory
from rarememory.backbones import stored_encoder
from rarememory.data import Characters, download_omniglot, read_omniglot
from rarememory.evaluation import embed

N_CONFUSIONS, N_MAPPED = 12, 20
BENCHMARK = Benchmark("benchmarks.omniglot.report", __doc__)
BENCHMARK.add_data()
add = BENCHMARK.add
add("--encoder", required=True, help="its weights, in safetensors")
text = "shown with the picture beside it"
add("--result", default=RESULTS / "omniglot_evaluation.json", help=text)
text = "picture of accuracy by sighting, as python -m benchmarks.omniglot draws it"
add("--sightings", default=RESULTS / "omniglot_vinyals.png", help=text)
add("--page", default="runs/omniglot_report.html")

Embeddings = Float[Tensor, "classes drawings key_dim"]
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100% } table { border-collapse: collapse } td, th { padding: .2rem .8rem }
td { text-align: right } td:first-child, th { text-align: left }
tr + tr { border-top: 1px solid #ddd }
"""
OTHER_ENCODER = "What follows is of another encoder than the figures above."


class Page(NamedTuple):
    """The result of the evaluation, PNGs of it and of accuracy by sighting; if of this encoder."""

    result: dict[str, Any]
    curves: bytes
    sightings: bytes
    same_encoder: bool


@BENCHMARK
def main(run: Run) -> None:
    """Write the page."""
    options = run.options
    encoder = stored_encoder(options.encoder)
    folder = options.data or download_omniglot("data")
    characters = read_omniglot(folder, encoder.size).evaluation
    result = json.loads(Path(options.result).read_text(encoding="utf-8"))
    page = Page(
        result,
        curves=Path(options.result).with_suffix(".png").read_bytes(),
        sightings=Path(options.sightings).read_bytes(),
        same_encoder=result.get("weights_sha256") == sha256(options.encoder),
    )
    path = write_page(characters, embed(encoder, characters.images), page, Path(options.page))
    print(f"wrote {path}")


def write_page(characters: Characters, embeddings: Embeddings, page: Page, path: Path) -> Path:
    """Write the page: each character is stored from one drawing, the others are queries."""
    matplotlib.use("Agg")
    confused, predicted = confusions(embeddings)
    result = page.result
    parts = [
        "<h1>Omniglot past the paper</h1>",
        f"<p>{html.escape(result['command'])}, commit {html.escape(result['commit'])}</p>",
        _image(page.curves),
        _table(result["figures"]),
        "<h2>Accuracy by sighting</h2><p>In episodes of the Vinyals split, by the encoder that was "
        "trained on its other characters.</p>",
        _image(page.sightings),
        "" if page.same_encoder else f"<p>{OTHER_ENCODER}</p>",
        f"<h2>The {N_CONFUSIONS} worst confusions</h2><p>Each character is remembered from one "
        "drawing (right of each pair); left is the drawing that was taken for it, with the name of "
        "what it is.</p>",
        _picture(_pairs(characters, confused, predicted)),
        f"<h2>A map of {N_MAPPED} characters</h2><p>Every drawing of the first characters of the "
        "first alphabet, as near as their embeddings are (t-SNE).</p>",
        _picture(_map(characters, embeddings)),
    ]
    head = f"<!doctype html><meta charset=utf-8><title>Omniglot</title><style>{STYLE}</style>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *parts]), encoding="utf-8")
    return path


def confusions(embeddings: Embeddings) -> tuple[list[tuple[int, int]], list[int]]:
    """The worst confusions, each pair of classes once.

    The first drawing of each class is stored; all others are queries. Worst is where the predicted
    class exceeds the true one by the greatest score.

    Returns:
        (class, drawing) of each query, worst first, and the predicted classes.
    """
    n_classes, n_drawings, key_dim = embeddings.shape
    memory, labels = Memory(key_dim, n_classes), torch.arange(n_classes)
    memory.write(embeddings[:, 0], labels)
    queries = embeddings[:, 1:]
    truth = labels.unsqueeze(1).expand(n_classes, n_drawings - 1)
    pair = memory(queries, truth)
    correct = pair.values == truth.unsqueeze(2)
    lead = pair.scores.where(~correct, 0).sum(2) - pair.scores.where(correct, 0).sum(2)
    confused: list[tuple[int, int]] = []
    predicted: list[int] = []
    wrong = pair.values.where(~correct, 0).sum(2)
    for place in lead.flatten().argsort(descending=True).tolist():
        label, drawing = divmod(place, n_drawings - 1)
        if lead[label, drawing] <= 0 or len(confused) == N_CONFUSIONS:
            break
        answer = int(wrong[label, drawing])
        if (label, answer) not in zip((one for one, _ in confused), predicted, strict=True):
            confused.append((label, drawing + 1))
            predicted.append(answer)
    return confused, predicted


def _pairs(characters: Characters, confused: list[tuple[int, int]], predicted: list[int]) -> Figure:
    rows = max(1, -(-len(confused) // 3))
    figure, axes = plt.subplots(rows, 3, figsize=(11, 2.2 * rows), layout="constrained")
    for place, one in enumerate(np.ravel(axes)):
        one.axis("off")
        if place < len(confused):
            (label, drawing), answer = confused[place], predicted[place]
            left, right = characters.images[label, drawing], characters.images[answer, 0]
            gap = torch.zeros(len(left), len(left) // 4, dtype=torch.uint8)
            both = 255 - torch.cat([left, gap, right], dim=1).numpy()
            one.imshow(both, cmap="gray", vmin=0, vmax=255)
            one.set_title(f"{characters.names[label]}\nfor {characters.names[answer]}", fontsize=8)
    return figure


def _map(characters: Characters, embeddings: Embeddings) -> Figure:
    shown = torch.nn.functional.normalize(embeddings[:N_MAPPED], dim=2)
    flat = shown.flatten(0, 1).numpy()
    perplexity = min(15, len(flat) // 3)
    places = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(flat)
    figure, axes = plt.subplots(figsize=(9, 9))
    axes.set_position((0.03, 0.03, 0.94, 0.94))
    axes.axis("off")
    colors = plt.colormaps["tab20"](np.arange(len(shown)) % 20)
    for place, (across, down) in enumerate(places):
        label, drawing = divmod(place, embeddings.shape[1])
        ink = characters.images[label, drawing].numpy() / 255
        color = np.broadcast_to(colors[label, :3], (*ink.shape, 3))
        picture = np.concatenate([color, ink[..., None]], 2)
        box = matplotlib.offsetbox.OffsetImage(picture, zoom=0.7)
        axes.add_artist(matplotlib.offsetbox.AnnotationBbox(box, (across, down), frameon=False))
    axes.scatter(*places.T, alpha=0)
    return figure


def _table(figures: dict[str, float]) -> str:
    rows = []
    for key in (key for key in figures if not key.endswith(".interval")):
        interval, name = figures.get(f"{key}.interval"), html.escape(key.removeprefix("omniglot."))
        known = "" if interval is None else f"± {interval:.2f}"
        rows.append(f"<tr><td>{name}<td>{figures[key]:.2f}<td>{known}")
    return f"<details><summary>All figures, in %</summary><table>{''.join(rows)}</table></details>"


def _picture(figure: Figure) -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    plt.close(figure)
    return _image(png.getvalue())


def _image(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


if __name__ == "__main__":
    sys.exit(main())
