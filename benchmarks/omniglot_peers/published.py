"""What the papers print for these methods, in percent: N characters of any alphabet, rotated."""

PUBLISHED: dict[str, tuple[str, dict[str, float]]] = {
    "matching": (
        "Vinyals et al. 2016, arXiv 1606.04080, table 1",
        {"5w1s": 98.1, "5w5s": 98.9, "20w1s": 93.8, "20w5s": 98.5},
    ),
    "memory": (
        "Kaiser et al. 2017, arXiv 1703.03129, table 1",
        {"5w1s": 98.4, "5w5s": 99.6, "20w1s": 95.0, "20w5s": 98.6},
    ),
    "prototypical": (
        "Snell et al. 2017, arXiv 1703.05175, table 1",
        {"5w1s": 98.8, "5w5s": 99.7, "20w1s": 96.0, "20w5s": 98.9},
    ),
    "maml": (
        "Finn et al. 2017, arXiv 1703.03400, table 1",
        {"5w1s": 98.7, "5w5s": 99.9, "20w1s": 95.8, "20w5s": 98.9},
    ),
}


def compared_with_published(row: str, task: str, accuracy: float) -> dict[str, float]:
    """The points by which a measured accuracy exceeds the published one, if there is one."""
    published = PUBLISHED.get(row, ("", {}))[1].get(task)
    key = f"omniglot_peers.{row}.{task}.to_published"
    return {} if published is None else {key: accuracy - published}
