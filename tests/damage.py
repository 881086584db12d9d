"""Break the code on purpose, line by line: every damage has to turn a test red.

Run by hand: `python -m tests.damage`, or with words to damage only the lines that contain them.
Works on a copy, prints a table, exits 1 if a damage survives.
"""

import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/test_rules.py",
    "tests/test_updates.py",
    "tests/test_noise.py",
    "tests/test_losses.py",
    "tests/test_authors_defects.py",
    "tests/test_bad_input.py",
    "tests/test_state.py",
    "tests/lookup",
    "tests/test_histories.py",
)

# Where most of a file's damages are seen, if not in the test of its name.
OWN = {
    "memory.py": "tests/test_rules.py",
    "state.py": "tests/test_rules.py",
    "queries.py": "tests/test_bad_input.py",
    "capacity.py": "tests/test_state.py",
    "forgetting.py": "tests/test_state.py",
    "lookup": "tests/lookup",
    "lookup/triton.py": "tests/lookup/test_triton.py",
    "lookup/triton_plan.py": "tests/lookup/test_triton.py",
    "lookup/triton_kernels.py": "tests/lookup/test_triton.py",
    "lookup/triton_topk.py": "tests/lookup/test_triton.py",
}

# ruff: noqa: E501 (a line of code is quoted whole)
# (file, what it says, what it says when damaged)
DAMAGES = (
    # Reading
    ("memory.py", "if rows.labels is None or k is not None:", "if rows.labels is None:"),
    ("memory.py", "self.k if k is None else k)", "self.k)"),
    ("memory.py", "return loss - self.margin if", "return loss + self.margin if"),
    ("memory.py", "rows.asked(), self.keys, self.values != EMPTY, k", "rows.asked(), self.keys, self.values >= EMPTY, k"),
    ("memory.py", "missing = min(k, len(self.keys))", "missing = len(self.keys)"),
    ("memory.py", "return rows.masked(nn.functional.pad(slots, (0, missing), value=EMPTY))", "return nn.functional.pad(slots, (0, missing), value=EMPTY)"),
    ("memory.py", "return torch.autocast(self.keys.device.type, enabled=False)", "return torch.autocast(self.keys.device.type, enabled=True)"),
    ("memory.py", "slots, scores = slots.gather(1, in_order), scores.gather(1, in_order)", "scores = scores.gather(1, in_order)"),
    ("memory.py", ".masked_fill_(slots == EMPTY, EMPTY)", ""),
    ("memory.py", "slots = rows.masked(torch.stack(pair, dim=1))", "slots = torch.stack(pair, dim=1)"),
    ("memory.py", "        if reason is not None:\n            raise ValueError(reason)", "        pass"),
    # Writing
    ("memory.py", 'self._refuse_if_read_only("write")', "pass"),
    ("memory.py", "while len(nearest) > len(self.keys) and waiting.any():", "while False:"),
    ("memory.py", "rest = rows._replace(mask=waiting)", "rest = rows"),
    ("memory.py", "new.where(waiting, old)", "old.where(waiting, new)"),
    ("memory.py", "nearest = rows.masked(queries.slots[..., 0]", "nearest = rows.masked(queries.slots[..., -1]"),
    ("updates.py", "    if len(queries) == 0:\n", "    if False:\n"),
    ("updates.py", "hits = (nearest != EMPTY) & (", "hits = ("),
    ("updates.py", "placed = ~update.averages(hits) | ~hits", "placed = ~update.averages(hits)"),
    ("updates.py", "placed = placed & mask\n", "placed = placed & mask.roll(1)\n"),
    ("updates.py", "averaged = hits & ~placed", "averaged = hits"),
    ("updates.py", ".where(placed & (slots != EMPTY), EMPTY)", ".where(slots != EMPTY, EMPTY)"),
    ("updates.py", "return Write(slots, hits, overwritten), placed & (slots == EMPTY)", "return Write(slots, hits, overwritten), hits & (slots == EMPTY)"),
    ("updates.py", ".double(), noise).nan_to_num()", ".double(), noise)"),
    ("updates.py", "gladness[:-1].masked_fill_(state.values == EMPTY, torch.inf)", "pass"),
    ("updates.py", "gladness.index_fill_(0, keep.where(keep != EMPTY, size), -torch.inf)", "pass"),
    ("updates.py", "(tied & (tied.cumsum(0) <= count - above.sum()))", "(tied & (tied.flip(0).cumsum(0).flip(0) <= count - above.sum()))"),
    ("updates.py", "slots = slots[gladness[slots].argsort(descending=True, stable=True)]", "pass"),
    ("updates.py", "return slots.masked_fill(gladness[slots] == -torch.inf, EMPTY)", "return slots"),
    ("updates.py", "by_query = (queries * axis.cos_()).sum(1).argsort()", "by_query = torch.arange(len(queries), device=queries.device)"),
    ("updates.py", "return by_query[labels[by_query].argsort(stable=True)]", "return by_query"),
    ("updates.py", "place[turn] = placed[turn].cumsum(0) - 1", "place = placed.cumsum(0) - 1"),
    ("updates.py", "free = eviction_order(state, update, len(slots), keep=slots)", "free = eviction_order(state, update, len(slots))"),
    ("updates.py", "return found.where(placed, slots)", "return found"),
    ("updates.py", "state.clock.add_(1 if real is None else real.any())", "state.clock.add_(1)"),
    ("updates.py", "index_add_(0, first[turn], rows)", "index_add_(0, first, queries)"),
    ("updates.py", "index_add_(0, first[turn], rows)", "index_copy_(0, first[turn], rows)"),
    ("updates.py", "sums = before + sums[first]", "sums = before + queries"),
    ("updates.py", "means = (sums / lengths).where(lengths > _SHORTEST_SUM, before)", "means = sums / lengths"),
    ("updates.py", "means = (sums / lengths)", "means = (sums / 2)"),
    ("updates.py", "return ages + self.age_noise * noise", "return ages + noise"),
    ("updates.py", "return torch.where(averaged.unsqueeze(1), means, queries)", "return means"),
    ("updates.py", "again = rows[first].where(_along(real[first], rows), stored[target])", "again = rows[first]"),
    # Losses
    ("losses.py", "positive = positive.masked_fill(positive == -torch.inf, 0.0)", "positive = positive.masked_fill(positive == -torch.inf, 1.0)"),
    ("losses.py", "- positive + margin) * compared", "- positive + margin)"),
    ("losses.py", "- positive + margin)", "- positive - margin)"),
    ("losses.py", "torch.relu(negative", "torch.nn.functional.gelu(negative"),
    ("losses.py", "mask.sum().clamp(min=1)", "len(mask)"),
    ("losses.py", ".sum() / mask.sum().clamp(min=1)", ".sum() / mask.sum()"),
    ("losses.py", "return losses.mean() if losses.numel() else losses.sum()", "return losses.mean()"),
    ("losses.py", "& (scores > -torch.inf)", ""),
    ("losses.py", "logits = (scores / temperature)", "logits = (scores * temperature)"),
    ("losses.py", "chances.where(voted, 0.0)", "chances"),
    ("losses.py", ".clamp(min=lowest)", ""),
    # State
    ("state.py", ".masked_fill(~self.occupied, EMPTY)", ""),
    ("state.py", "logits = (self.scores / self.temperature)", "logits = (self.scores * self.temperature)"),
    ("state.py", "return logits.softmax(dim=-1) * there", "return logits.softmax(dim=-1)"),
    # Queries
    ("queries.py", "flat = projection(flat.to(keys.dtype))", "flat = projection(flat)"),
    ("queries.py", "if good.device.type != \"cpu\" or not good.all():", "if False:"),
    ("queries.py", "wide = queries.to(torch.promote_types(queries.dtype, torch.float32))", "wide = queries"),
    ("queries.py", "return (wide / lengths).to(dtype), None", "return wide.to(dtype), None"),
    ("queries.py", "_SAFE_LENGTHS = (1e-15, 1e15)", "_SAFE_LENGTHS = (0.0, 1e40)"),
    ("queries.py", "_SAFE_LENGTHS = (1e-15, 1e15)", "_SAFE_LENGTHS = (1e-40, 1e15)"),
    ("queries.py", "good = (greatest > 0) & (greatest < torch.inf)", "good = greatest < torch.inf"),
    ("queries.py", "good = (greatest > 0) & (greatest < torch.inf)", "good = greatest > 0"),
    ("queries.py", "greatest = wide.detach().abs().amax", "greatest = wide.detach().abs().amin"),
    ("queries.py", ".where(good, 0.0) / greatest", " / greatest"),
    ("queries.py", "good = rows.labels >= 0", "good = rows.labels >= -1"),
    ("queries.py", "mask=good if rows.mask is None else good & rows.mask", "mask=good"),
    ("queries.py", "elif good is not None:", "elif False:"),
    ("queries.py", "good = good | ~mask", "pass"),
    ("queries.py", "or labels.dtype == torch.bool", ""),
    ("queries.py", "if rows.shape != queries.shape[:-1]:", "if rows.numel() != queries[..., 0].numel():"),
    # Lookups
    ("lookup/exact.py", "return 2 * (keys.shape[1] + 2 * APART) * torch.finfo(keys.dtype).eps", "return 0.0"),
    ("lookup/exact.py", ".masked_fill(slots == EMPTY, -torch.inf)", ""),
    ("lookup/exact.py", "by_slot = slots.argsort(dim=-1)", "by_slot = slots.argsort(dim=-1, descending=True)"),
    ("lookup/exact.py", "by_score = scores.argsort(descending=True, stable=True)", "by_score = scores.argsort(stable=True)"),
    ("lookup/exact.py", "in_order = by_score[rows[by_score].argsort(stable=True)]", "in_order = by_score"),
    ("lookup/exact.py", "kept = place < k", "kept = place <= k - 2"),
    ("lookup/exact.py", "if (runner_up >= threshold).any():", "if False:"),
    ("lookup/exact.py", ".clamp(min=floor)", ""),
    ("lookup/exact.py", "near = scores.scatter_(1, slots, highest) >= threshold", "near = scores >= threshold"),
    ("lookup/exact.py", "return slots.masked_fill(highest < floor, EMPTY).squeeze(1)", "return slots.squeeze(1)"),
    ("lookup/exact.py", "and scores.dtype != torch.bfloat16", ""),
    ("lookup/exact.py", "APART = 4\n", "APART = 1\n"),
    ("lookup/pair.py", "floor=APART - 2.0)", "floor=-2.0)"),
    ("lookup/pair.py", "    scores.sub_(right, alpha=APART)\n", ""),
    ("lookup/pair.py", "alpha=2 * APART, out=right)", "alpha=APART, out=right)"),
    ("lookup/pair.py", "at_once = max(1, SCORES_AT_ONCE // max(1, len(keys)))", "at_once = 10**9"),
    ("lookup/pair.py", "logical_not(occupied, out=nothing).mul_(-2 * APART)", "logical_not(occupied, out=nothing).mul_(0)"),
    ("lookup/pair.py", "    if queries.device.type != \"cpu\" or not queries.sum().isfinite():\n", "    if False:\n"),
    ("lookup/torch.py", "k = min(k, len(keys))", "pass"),
    ("lookup/torch.py", "at_once = max(1, SCORES_AT_ONCE // max(1, len(keys)))", "at_once = 10**9"),
    ("lookup/torch.py", "- tolerance(keys)).clamp(min=-2)", "- tolerance(keys))"),
    ("lookup/torch.py", "(_kth_highest(scores, k) - tolerance(keys))", "_kth_highest(scores, k)"),
    ("lookup/torch.py", "sure = near.sum(1) == k", "sure = near.sum(1) >= k"),
    ("lookup/torch.py", "place = scores.shape[1] - k", "place = scores.shape[1] - k + 1"),
    ("lookup/faiss.py", "fetched = min(k + _SLACK, len(stored))", "fetched = min(k, len(stored))"),
    ("lookup/faiss.py", "slots = found if slots_of_stored is None else slots_of_stored[found]", "slots = found"),
    ("lookup/faiss.py", "slots = slots.masked_fill(~queries.isfinite().all(1, keepdim=True), EMPTY)", "pass"),
    ("lookup/faiss.py", "last = scores[:, k - 1] - tolerance(keys)", "last = scores[:, k - 1] + 1"),
    ("lookup/faiss.py", "unsure = scores[:, k] >= last", "unsure = scores[:, k] > 9"),
    ("lookup/faiss.py", "unsure = scores[:, -1] >= last", "unsure = scores[:, -1] > 9"),
    ("lookup/faiss.py", "if bool(occupied[:count].all()):", "if True:"),
    ("lookup/faiss.py", "        faiss.cvar.distance_compute_blas_threshold = before\n", "        pass\n"),
    ("lookup/faiss.py", "if keys.dtype != torch.float32:", "if False:"),
    ("lookup/__init__.py", "if lookup.why_not(queries, keys, k) is None:", "if True:"),
    # Triton
    ("lookup/triton.py", "if keys.device.type != \"cuda\" and not self.interpret:", "if False:"),
    ("lookup/triton.py", "queries, occupied = queries.contiguous(), occupied.contiguous()", "pass"),
    ("lookup/triton.py", "if plan.may_overflow:", "if False:"),
    ("lookup/triton_plan.py", "torch.float32: 2.0**-9}", "torch.float32: 2.0**-11}"),
    ("lookup/triton_plan.py", "window = 2 * error(", "window = 0 * error("),
    ("lookup/triton_plan.py", "own = 0.0 if keys == torch.float32 else rounded[keys]", "own = 0.0"),
    ("lookup/triton_plan.py", "slots // (_LEAST_TILES * tile.slots)", "slots // tile.slots"),
    ("lookup/triton_kernels.py", "tl.where(mark != EMPTY, 0.0, NOTHING)[None, :]", "0.0"),
    ("lookup/triton_kernels.py", "tl.where(mark != 0, 0.0, NOTHING)[None, :]", "0.0"),
    ("lookup/triton_kernels.py", "mark = next_mark", "pass"),
    ("lookup/triton_kernels.py", "second = tl.maximum(second, tl.minimum(first, scores))", "second = tl.maximum(second, NOTHING)"),
    ("lookup/triton_kernels.py", "first = tl.maximum(first, tl.where(right, scores, NOTHING))", "first = tl.maximum(first, scores)"),
    ("lookup/triton_kernels.py", "& ((value == label) == (plane == 0))", ""),
    ("lookup/triton_kernels.py", "there = there & (tl.abs(scores) < float(\"inf\"))", "pass"),
    ("lookup/triton_kernels.py", "((scores == best) & (slot < best_slot))", "((scores == best) & (slot > best_slot))"),
    ("lookup/triton_kernels.py", "(best == top) & (best_slot >= 0)", "best_slot >= 0"),
    ("lookup/triton_kernels.py", "(query[None, :] * key).to(kind).to(tl.float32)", "query[None, :] * key"),
    ("lookup/triton_topk.py", "floor = low - window", "floor = low"),
    ("lookup/triton_topk.py", "(maxima >= middle).to(tl.int32), 0) >= k", "(maxima >= middle).to(tl.int32), 0) >= k - 1"),
    ("lookup/triton_topk.py", "whole = whole & (second >= floor)", "whole = whole & (second > 9)"),
    ("lookup/triton_topk.py", "there = single | (in_bin & (slot < slots))", "there = single"),
    ("lookup/triton_topk.py", "if (singles > room_for_singles) | (wholes > room_for_wholes):", "if singles > room_for_singles:"),
    ("lookup/triton_topk.py", "tl.maximum(tl.sort(kept, descending=True), tl.sort(packed))", "tl.maximum(tl.sort(kept, descending=True), packed)"),
    ("lookup/triton_topk.py", "bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)", "pass"),
    ("lookup/triton_topk.py", "(_LAST - slot.to(tl.int64))", "slot.to(tl.int64)"),
    ("lookup/triton_topk.py", "tl.full([BLOCK_K], NO_CANDIDATE, tl.int64), mask=rest < room", "tl.full([BLOCK_K], NO_CANDIDATE, tl.int64), mask=rest < 0"),
    # Capacity, forgetting and the state as a whole
    ("capacity.py", "if memory_size < len(slots):", "if memory_size != len(slots):"),
    ("capacity.py", "by_age = state.ages[slots].argsort(stable=True)", "by_age = state.ages[slots].argsort(stable=True, descending=True)"),
    ("capacity.py", "slots = slots[by_age[:memory_size]].sort().values", "slots = slots[by_age[:memory_size]]"),
    ("capacity.py", "keys = state.keys[old_slots].masked_fill(~there.unsqueeze(1), 0.0)", "keys = state.keys[old_slots]"),
    ("capacity.py", "values = state.values[old_slots].masked_fill(~there, EMPTY)", "values = state.values[old_slots]"),
    ("capacity.py", "written = state.written[old_slots].masked_fill(~there, 0)", "written = state.written[old_slots]"),
    ("capacity.py", "old_slots = old_slots.masked_fill(values == EMPTY, EMPTY)", "pass"),
    ("capacity.py", "        if buffer.shape != wanted.shape:\n", "        if False:\n"),
    ("capacity.py", "    if missing:\n", "    if False:\n"),
    ("capacity.py", "if len(missing) == len(names):", "if False:"),
    ("capacity.py", '*(["projection.weight"] if projection else [])', ""),
    ("queries.py", "return queries.masked_fill(~self.mask.unsqueeze(1), torch.nan)", "return queries"),
    ("queries.py", "return rows._replace(queries=units.masked_fill(~rows.mask.unsqueeze(1), 0.0))", "return rows"),
    ("queries.py", "if validate and recall.slots.numel() and int(recall.slots.max()) >= len(keys):", "if False:"),
    ("queries.py", "if not isinstance(queries, Tensor):", "if False:"),
    ("memory.py", 'self._refuse_if_read_only("load")', "pass"),
    ("memory.py", 'return {**self.__dict__, "_read_only": False}', "return self.__dict__"),
    ("memory.py", "if update is not None and not isinstance(update, updates.Update):", "if False:"),
    ("losses.py", "right.any(dim=-1)", "right.any(dim=1)"),
    ("lookup/faiss.py", "        if not _installed():\n            return _NOT_INSTALLED\n", ""),
    ("capacity.py", "if width != key_dim:", "if False:"),
    ("capacity.py", "if len(theirs.values) != len(mine.values):", "if len(theirs.values) > len(mine.values):"),
    ("forgetting.py", "gone &= torch.isin(state.values, _integers(\"labels\", labels, state))", "gone |= torch.isin(state.values, _integers(\"labels\", labels, state))"),
    ("forgetting.py", "(chosen < 0) | (chosen >= size)", "chosen >= size"),
    ("forgetting.py", "gone &= state.ages > older_than", "gone &= state.ages >= older_than"),
    ("forgetting.py", "state.keys.masked_fill_(gone.unsqueeze(1), 0.0)", "pass"),
    ("forgetting.py", "state.written.masked_fill_(gone, 0)", "pass"),
    ("forgetting.py", "    gone = state.occupied\n", "    gone = torch.ones_like(state.occupied)\n"),
    ("memory.py", "            become(self.state, before)\n", "            become(self.state, before._replace(clock=self.clock))\n"),
    ("memory.py", "        return True\n", "        return len(self) > 0\n"),
    ("memory.py", "self._read_only = before", "self._read_only = False"),
    # Noise
    ("noise.py", "first = seed + (clock * memory_size + 1) * _GAMMA", "first = seed + (clock + 1) * _GAMMA"),
    ("noise.py", "_shifted(z, 27)", "_shifted(z, 26)"),
    ("noise.py", "return (x >> bits) & ((1 << (64 - bits)) - 1)", "return x >> bits"),
    ("noise.py", "* 2.0**-52 - 1.0", "* 2.0**-53"),
)  # fmt: skip


# Imported once, before the forks: a run then starts in a moment.
COMMON = ("torch", "faiss", "safetensors.torch")


def copied(home: Path) -> Path:
    """A copy of what the tests of the core need."""
    for folder in ("rarememory", "tests"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", home)
    return home


def run_tests(home: Path, tests: list[str], log: Path) -> None:
    """Run the tests in the copy; this is the life of a forked process."""
    sys.dont_write_bytecode = True
    sys.modules.pop("tests", None)
    sys.path[:] = [str(home), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    os.chdir(home)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = importlib.import_module("pytest").main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(code)


def first_failure(home: Path, tests: list[str]) -> str | None:
    """The first test that turns red, or None if all are green."""
    log = home / "log"
    run = multiprocessing.get_context("fork").Process(target=run_tests, args=(home, tests, log))
    run.start()
    run.join(timeout=600)
    if run.exitcode is None:
        run.kill()
        return "ran for ever"
    if run.exitcode == 0:
        return None
    red = [line for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return red[0].split(" - ")[0].partition("::")[2] or red[0] if red else "did not start"


def survives(home: Path, file: str, old: str, new: str) -> bool:
    path = home / "rarememory" / file
    text = path.read_text("utf-8")
    if old not in text:
        print(f"GONE     {file} no longer says: {old}", flush=True)
        return True
    path.write_text(text.replace(old, new, 1), "utf-8")
    start = time.perf_counter()
    own = OWN.get(file) or OWN.get(file.partition("/")[0], f"tests/test_{file}")
    rest = [test for test in TESTS if test != own]
    red = first_failure(home, [own]) or first_failure(home, rest)
    path.write_text(text, "utf-8")
    took = time.perf_counter() - start
    said = f"{file:20} {old.strip():.60} -> {new.strip():.40}".replace("\n", " ")
    print(f"{'SURVIVES' if red is None else 'red':8} {took:5.1f} s  {said}  [{red}]", flush=True)
    return red is None


def main(words: list[str]) -> int:
    for name in COMMON:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        home = copied(Path(folder))
        if (red := first_failure(home, list(TESTS))) is not None:
            print(f"the undamaged code is red: {red}")
            return 1
        chosen = [d for d in DAMAGES if not words or any(word in " ".join(d) for word in words)]
        alive = [damage for damage in chosen if survives(home, *damage)]
    print(f"{len(chosen)} damages, {len(alive)} survive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
