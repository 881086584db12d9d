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
    "tests/lookup/test_nearest.py",
    "tests/lookup/test_pair.py",
    "tests/lookup/test_codes.py",
    "tests/test_native.py",
    "tests/test_shadow.py",
    "tests/test_histories.py",
    "tests/classifier",
    "tests/integrations",
)

# Where most of a file's damages are seen, if not in the test of its name.
OWN = {
    "memory.py": "tests/test_rules.py",
    "state.py": "tests/test_rules.py",
    "queries.py": "tests/test_bad_input.py",
    "capacity.py": "tests/test_state.py",
    "forgetting.py": "tests/test_state.py",
    "lookup": "tests/lookup/test_nearest.py",
    "lookup/pair.py": "tests/lookup/test_pair.py",
    "lookup/ops.py": "tests/test_rules.py",
    **dict.fromkeys(
        ("lookup/changes.py", "lookup/indexed.py", "lookup/ivf.py", "lookup/lsh.py"),
        "tests/lookup/test_own_lookup.py tests/lookup/test_lsh.py tests/lookup/test_ivf.py",
    ),
    "native": "tests/test_native.py",
    **dict.fromkeys(
        ("lookup/native_codes.py", "native/codes.h", "native/code.cpp", "native/nearest_coded.cpp"),
        "tests/lookup/test_codes.py",
    ),
    "reading.py": "tests/test_rules.py",
    "watching.py": "tests/test_shadow.py tests/lookup/test_ivf.py tests/lookup/test_own_lookup.py",
    "writing.py": "tests/test_updates.py",
    "classifier/labels.py": "tests/classifier/test_labels.py",
    "classifier/refs.py": "tests/classifier/test_labels.py",
    "classifier/host.py": "tests/classifier/test_host.py",
    "classifier/examples.py": "tests/classifier/test_learning.py",
    "classifier/learning.py": "tests/classifier/test_learning.py",
    "classifier/answering.py": "tests/classifier/test_answering.py",
    "classifier/blending.py": "tests/classifier/test_answering.py",
    "classifier/openset.py": "tests/classifier/test_not_knowing.py",
    "classifier/calibration.py": "tests/classifier/test_not_knowing.py",
    "classifier/wrapped.py": "tests/classifier/test_forgetting.py",
    "classifier/refreshing.py": "tests/classifier/test_refreshing.py",
    "classifier/doctor.py": "tests/classifier/test_doctor.py",
    "classifier/persistence.py": "tests/classifier/test_keeping.py",
    "classifier/saving.py": "tests/classifier/test_keeping.py",
    "classifier": "tests/classifier",
    "integrations": "tests/integrations",
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
    ("reading.py", "state.keys, state.occupied, k, shadow", "state.keys, state.values >= EMPTY, k, shadow"),
    ("lookup/ops.py", "    missing = min(k, len(keys)) - slots.shape[1]\n", "    missing = 0\n"),
    ("reading.py", "return rows.masked(nearest(lookup, rows.asked(), state.keys, state.occupied, k, shadow))", "return nearest(lookup, rows.asked(), state.keys, state.occupied, k, shadow)"),
    ("reading.py", "return torch.autocast(state.keys.device.type, enabled=False)", "return torch.autocast(state.keys.device.type, enabled=True)"),
    ("reading.py", "slots, scores = slots.gather(1, in_order), scores.gather(1, in_order)", "scores = scores.gather(1, in_order)"),
    ("reading.py", ".masked_fill_(slots == EMPTY, EMPTY)", ""),
    ("reading.py", "return rows.masked(torch.stack(pair, dim=1))", "return torch.stack(pair, dim=1)"),
    ("lookup/ops.py", "        raise ValueError(reason)\n", "        pass\n"),
    # Writing
    ("memory.py", 'self._refuse_if_read_only("write")', "pass"),
    ("memory.py", "while len(nearest) > len(self.keys) and waiting.any():", "while False:"),
    ("memory.py", "rest = rows._replace(mask=waiting)", "rest = rows"),
    ("memory.py", "new.where(waiting, old)", "old.where(waiting, new)"),
    ("memory.py", "nearest = rows.masked(queries.slots[..., 0]", "nearest = rows.masked(queries.slots[..., -1]"),
    ("writing.py", "    if len(queries) == 0:\n", "    if False:\n"),
    ("writing.py", "hits = (nearest != EMPTY) & (", "hits = ("),
    ("writing.py", "averaged = update.averages(hits).bool() & hits", "averaged = update.averages(hits).bool()"),
    ("writing.py", "else mask & ~averaged", "else mask.roll(1) & ~averaged"),
    ("writing.py", "averaged = update.averages(hits).bool() & hits", "averaged = hits"),
    ("writing.py", ".where(placed & (slots != EMPTY), EMPTY)", ".where(slots != EMPTY, EMPTY)"),
    ("writing.py", "return Write(slots, hits, overwritten), placed & (slots == EMPTY)", "return Write(slots, hits, overwritten), hits & (slots == EMPTY)"),
    ("writing.py", "_gladness(state, update, 0, size).nan_to_num()", "_gladness(state, update, 0, size)"),
    ("writing.py", "gladness[:-1].masked_fill_(state.values == EMPTY, torch.inf)", "pass"),
    ("writing.py", "gladness.index_fill_(0, keep.where(keep != EMPTY, size), -torch.inf)", "pass"),
    ("writing.py", "(tied & (tied.cumsum(0) <= count - above.sum()))", "(tied & (tied.flip(0).cumsum(0).flip(0) <= count - above.sum()))"),
    ("writing.py", "slots = slots[gladness[slots].argsort(descending=True, stable=True)]", "pass"),
    ("writing.py", "return slots.masked_fill(gladness[slots] == -torch.inf, EMPTY)", "return slots"),
    ("writing.py", "by_query = (queries * axis.cos_()).sum(1).argsort(stable=True)", "by_query = torch.arange(len(queries), device=queries.device)"),
    ("writing.py", "return by_query[labels[by_query].argsort(stable=True)]", "return by_query"),
    ("writing.py", "place[turn] = placed[turn].cumsum(0) - 1", "place = placed.cumsum(0) - 1"),
    ("writing.py", "free = eviction_order(state, update, len(nearest), keep=keep)", "free = eviction_order(state, update, len(nearest))"),
    ("writing.py", "return found.where(placed, slots)", "return found"),
    ("writing.py", "state.clock.add_(real.any())", "state.clock.add_(1)"),
    ("writing.py", "index_add_(0, first[turn], rows)", "index_add_(0, first, queries)"),
    ("writing.py", "index_add_(0, first[turn], rows)", "index_copy_(0, first[turn], rows)"),
    ("writing.py", "sums = before + sums[first]", "sums = before + queries"),
    ("writing.py", "(sums / lengths).where(lengths > _SHORTEST_SUM, before)", "(sums / lengths)"),
    ("writing.py", "means = (sums / lengths)", "means = (sums / 2)"),
    ("updates.py", "return 1.0, self.age_noise", "return 1.0, 1.0"),
    ("updates.py", "return age_weight * ages + noise_weight * noise", "return age_weight * ages + noise"),
    ("writing.py", "return torch.where(averaged.unsqueeze(1), means, queries)", "return means"),
    ("writing.py", "again = rows[first].where(_along(real[first], rows), stored[target])", "again = rows[first]"),
    # Losses
    ("losses.py", "positive = positive.masked_fill(positive == -torch.inf, 0.0)", "positive = positive.masked_fill(positive == -torch.inf, 1.0)"),
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
    ("queries.py", "flat = projection(flat.to(projection.weight.dtype))", "flat = projection(flat)"),
    ("queries.py", "if not may_look(good) or not good.all():", "if False:"),
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
    ("lookup/exact.py", "return (keys.shape[1] + 2 * APART + 2) * _eps(keys.dtype)", "return 0.0"),
    ("lookup/exact.py", ".masked_fill_(slots == EMPTY, -torch.inf)", ""),
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
    ("lookup/__init__.py", "            if reason is None:\n", "            if True:\n"),
    # Triton
    ("lookup/triton.py", "if keys.device.type != \"cuda\" and not self.interpret:", "if False:"),
    ("lookup/triton.py", "queries, occupied = queries.contiguous(), occupied.contiguous()", "pass"),
    ("lookup/triton.py", "if plan.may_overflow:", "if False:"),
    ("lookup/triton_plan.py", "torch.float32: 2.0**-9}", "torch.float32: 2.0**-11}"),
    ("lookup/triton_plan.py", "window = 2 * error(", "window = 0 * error("),
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
    ("lookup/triton_kernels.py", "total += query[None, :] * key", "total += (query[None, :] * key).to(tl.float32)"),
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
    ("queries.py", "if highest >= len(keys) or lowest < EMPTY:", "if highest >= len(keys):"),
    ("queries.py", "if highest >= len(keys) or lowest < EMPTY:", "if lowest < EMPTY:"),
    ("queries.py", "good = (lengths > 0) & (lengths < torch.inf)", "good = lengths != 0"),
    ("queries.py", "if not isinstance(queries, Tensor):", "if False:"),
    ("memory.py", 'self._refuse_if_read_only("load")', "pass"),
    ("memory.py", 'return {**self.__dict__, "_read_only": False}', "return self.__dict__"),
    ("memory.py", "if update is not None and not isinstance(update, updates.Update):", "if False:"),
    ("losses.py", "right.any(dim=-1)", "right.any(dim=1)"),
    ("lookup/faiss.py", 'return faiss_is_missing()', "return None"),
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
    # Indices that follow the memory
    ("memory.py", "        self._before_write()\n        write", "        write"),
    ("memory.py", "        self._after_write(write[0].slots)\n", ""),
    ("memory.py", "self._after_write(gone.nonzero().squeeze(1))", "pass"),
    ("lookup/changes.py", "here = keys.device == self.indexed.device", "here = True"),
    ("lookup/changes.py", "return here and (len(keys), keys.shape[1])", "return here and (len(self.indexed), keys.shape[1])"),
    ("lookup/changes.py", "self._following = self._watch.knows(keys)", "self._following = True"),
    ("lookup/changes.py", "            self._told[slots] = True\n", ""),
    ("lookup/changes.py", "            self._told[slots] = True\n            self._watch.look(keys)", "            self._told[slots] = True"),
    ("lookup/changes.py", "torch.zeros(len(keys) + 1,", "torch.zeros(len(keys),"),
    ("lookup/changes.py", "if not self._watch.knows(keys):", "if False:"),
    ("lookup/changes.py", "if not self._watch.knows(keys):", "if True:"),
    ("lookup/changes.py", "self._fingerprints(keys) != self._prints\n            self._watch.look(keys)", "self._fingerprints(keys) != self._prints"),
    ("lookup/changes.py", "return told | (occupied ^ self.indexed)", "return told"),
    ("lookup/changes.py", "        self._prints[slots] = self._fingerprints(keys[slots])\n", ""),
    ("lookup/changes.py", "        self.indexed = occupied.clone()\n        self._told", "        self._told"),
    ("lookup/changes.py", "        self._told.zero_()\n", ""),
    ("watching.py", "same = self._tensor is not None and self._tensor() is tensor", "same = True"),
    ("watching.py", "and self._stamp is not None and", "and"),
    ("lookup/changes.py", "(some.long() * self._weights).sum(1)", "some.long().sum(1)"),
    ("watching.py", "(tensor.data_ptr(), tensor._version)", "(tensor.data_ptr(), 0)"),
    ("watching.py", "(tensor.data_ptr(), tensor._version)", "(0, tensor._version)"),
    ("lookup/indexed.py", "if count < max(1, self.exact_below):", "if count < 1:"),
    ("lookup/indexed.py", "if count < max(1, self.exact_below):", "if count <= self.exact_below:"),
    ("lookup/indexed.py", "finite = queries.isfinite().all(1)", "finite = torch.ones(len(queries), dtype=torch.bool)"),
    ("lookup/indexed.py", "k = min(k, count)", "pass"),
    ("lookup/indexed.py", "slots.masked_fill(~occupied[slots], EMPTY)", "slots"),
    ("lookup/indexed.py", "        if finite.any():\n", "        if True:\n"),
    ("lookup/indexed.py", "cache is None or not cache.changes.fits(keys)", "cache is None"),
    ("lookup/indexed.py", "cache = self._cache = self._built(keys, occupied)", "cache = self._built(keys, occupied)"),
    ("lookup/indexed.py", "        with cache.lock:\n", "        if True:\n"),
    ("lookup/indexed.py", "                self._cache = None\n                raise", "                raise"),
    ("lookup/indexed.py", "        if not changed.any():\n            return\n", ""),
    ("lookup/indexed.py", "cache.changed |= changed", "cache.changed = changed"),
    ("lookup/indexed.py", "> self.rebuild_after * int(occupied.sum())", ">= self.rebuild_after * int(occupied.sum())"),
    ("lookup/indexed.py", "slots[cache.changes.indexed[slots]], slots[occupied[slots]]", "slots, slots[occupied[slots]]"),
    ("lookup/indexed.py", "slots[cache.changes.indexed[slots]], slots[occupied[slots]]", "slots[cache.changes.indexed[slots]], slots"),
    ("lookup/indexed.py", "        if len(before):\n            self", "        self"),
    ("lookup/indexed.py", "        if len(now):\n            self", "        self"),
    ("lookup/indexed.py", "        cache.changes.caught_up(keys, occupied, slots)\n", ""),
    ("lookup/indexed.py", 'if name != "_cache"}', "}"),
    ("lookup/indexed.py", "other.index, other.changes, other.changed", "other.index, other.changes, self.changed"),
    ("lookup/ivf.py", "len(slots) // _KEYS_PER_LIST", "len(slots)"),
    ("lookup/ivf.py", "lists = max(1, min", "lists = (min"),
    ("lookup/ivf.py", "lists, faiss.METRIC_INNER_PRODUCT", "lists, faiss.METRIC_L1"),
    ("lookup/ivf.py", "faiss.DirectMap.Hashtable", "faiss.DirectMap.NoMap"),
    ("lookup/ivf.py", "nprobe=min(self.n_probe, index.nlist)", "nprobe=1"),
    ("lookup/ivf.py", "fetched = min(k + _SLACK, index.ntotal)", "fetched = min(k, index.ntotal)"),
    ("lookup/ivf.py", "slots.gather(1, order(score(queries, keys, slots), slots))[:, :k]", "slots[:, :k]"),
    ("lookup/ivf.py", 'if keys.device.type != "cpu":', "if False:"),
    ("lookup/lsh.py", "near &= ~index.gone", "pass"),
    ("lookup/lsh.py", "        index.fresh[slots] = True\n", "        pass\n"),
    ("lookup/lsh.py", "        index.fresh[slots] = False\n", ""),
    ("lookup/lsh.py", "        index.fresh[slots] = False\n        index.gone[slots] = True\n", "        index.fresh[slots] = False\n"),
    ("lookup/lsh.py", "few = near.sum(1) < k", "few = near.sum(1) < 1"),
    ("lookup/lsh.py", "        if few.any():\n", "        if False:\n"),
    ("lookup/lsh.py", "stored & ~index.gone | index.fresh", "stored | index.fresh"),
    ("lookup/lsh.py", "stored & ~index.gone | index.fresh", "stored & ~index.gone"),
    ("lookup/lsh.py", "at_once = max(1, SCORES_AT_ONCE // (len(keys) * self.n_tables))", "at_once = 10**9"),
    ("lookup/lsh.py", "range(self.radius + 1)", "range(self.radius, self.radius + 1)"),
    ("lookup/lsh.py", "first + tables * index.codes.shape[1]", "first"),
    ("lookup/lsh.py", "torch.randn(self.n_tables", "torch.rand(self.n_tables"),
    ("lookup/lsh.py", ".manual_seed(self.seed)", ".manual_seed(0)"),
    ("lookup/lsh.py", "wanted, right=True) - first", "wanted, right=True) - first - 1).clamp(min=0"),
    ("lookup/lsh.py", "n_bits > _MOST_BITS:", "n_bits > 64:"),
    # The classifier
    ("classifier/labels.py", "fresh.setdefault(key, self.next_id + len(fresh))", "fresh.setdefault(key, self.next_id)"),
    ("classifier/labels.py", "return (type(label), label)", "return label"),
    ("classifier/labels.py", "self.next_id = max(self.next_id, number + 1)", "self.next_id = len(self._labels)"),
    ("classifier/labels.py", 'names.next_id = stored["next"]', "pass"),
    ("classifier/labels.py", "for number in [number for number in self._labels if number not in ids]:", "for number in []:"),
    ("classifier/labels.py", "label = label.item()", "pass"),
    ("classifier/labels.py", "if isinstance(label, float) and math.isnan(label):", "if False:"),
    ("classifier/labels.py", "    if type(label) is tuple:\n        return {", "    if False:\n        return {"),
    ("classifier/labels.py", "if label is None or type(label) in (str, int, bool, float):", "if True:"),
    ("classifier/refs.py", "            self._of.pop(slot, None)\n", "            pass\n"),
    ("classifier/refs.py", "[-REFS_A_SLOT:]", ""),
    ("classifier/refs.py", "if other != ref)", ")"),
    ("classifier/refs.py", "for slot, refs in self._of.items() if slot in slots}", "for slot, refs in self._of.items()}"),
    ("classifier/refs.py", "((new, self.of(old)) for new, old", "((new, self.of(new)) for new, old"),
    ("classifier/refs.py", "os.fspath(ref) if isinstance(ref, os.PathLike) else ref", "ref"),
    ("classifier/host.py", "            hook.remove()\n", "            pass\n"),
    ("classifier/host.py", "            module.training = mode\n", "            pass\n"),
    ("classifier/host.py", "    model.eval()\n", "    pass\n"),
    ("classifier/host.py", "caught[-1].mean((2, 3)) if", "caught[-1].amax((2, 3)) if"),
    ("classifier/host.py", "return found[-1] if found else None", "return found[0] if found else None"),
    ("classifier/host.py", "if key_dim not in (None, width):", "if False:"),
    ("classifier/examples.py", "dims is not None and inputs.ndim == dims", "False"),
    ("classifier/examples.py", "return not isinstance(inputs, list | tuple)", "return False"),
    ("classifier/examples.py", "if not len(inputs) == len(labels) == len(refs):", "if False:"),
    ("classifier/examples.py", "if isinstance(listed, str):", "if False:"),
    ("classifier/examples.py", "return inputs.to(like.device, dtype)", "return inputs.to(like.device)"),
    ("classifier/examples.py", "        if progress is None:\n            return batches\n", ""),
    ("classifier/learning.py", "    check_dims(batch.inputs, classifier._example_dims)\n", ""),
    ("classifier/learning.py", "    check_nameable(batch.labels, classifier.unknown)\n", ""),
    ("classifier/learning.py", "    _refuse_bad(features)\n", ""),
    ("classifier/learning.py", "    if lost:\n", "    if False:\n"),
    ("classifier/learning.py", "occupied[write.slots] & (write.overwritten == EMPTY)", "occupied[write.slots]"),
    ("classifier/learning.py", "occupied[write.slots] & (write.overwritten == EMPTY)", "write.overwritten == EMPTY"),
    ("classifier/learning.py", "    classifier._example_dims = dims_of(batch.inputs)\n", ""),
    ("classifier/answering.py", "            self.to(like.device)\n", "            pass\n"),
    ("classifier/answering.py", "with evaluating(self.host):", "if True:"),
    ("classifier/answering.py", "masked_fill(gone, FORGOTTEN)", "masked_fill(gone, 0.0)"),
    ("classifier/answering.py", "if logits is None or gone.all():", "if logits is None:"),
    ("classifier/answering.py", "if logits.shape[1:] != gone.shape:", "if False:"),
    ("classifier/answering.py", "self._familiarity(evidence) > self.threshold", "self._familiarity(evidence) >= self.threshold"),
    ("classifier/answering.py", "best.where(known, len(names) - 1)", "best"),
    ("classifier/answering.py", "wrong = (recall.values != ids.unsqueeze(1)) &", "wrong ="),
    ("classifier/answering.py", "logits.masked_fill(self.host_ids == ids.unsqueeze(1), FORGOTTEN)", "logits"),
    ("classifier/answering.py", "self._names.keep(", "len("),
    ("classifier/answering.py", "        self._tidy()\n        names, refs", "        names, refs"),
    ("classifier/answering.py", "            self._refs.move(old_slots.tolist())\n", "            pass\n"),
    ("classifier/answering.py", "    module._tidy()\n", "    pass\n"),
    ("classifier/answering.py", "if one[0] != EMPTY]", "]"),
    ("classifier/answering.py", "weights = share * vote_weights(", "weights = vote_weights("),
    ("classifier/answering.py", "k=max(k, self.memory.k)", "k=k"),
    ("classifier/answering.py", "if len(self.memory):", "if False:"),
    ("classifier/blending.py", "return torch.sigmoid((nearest - weighing.host_score) / weighing.width) * there", "return torch.sigmoid((nearest - weighing.host_score) / weighing.width)"),
    ("classifier/blending.py", "return there.to(evidence.scores.dtype)", "return torch.ones_like(there, dtype=evidence.scores.dtype)"),
    ("classifier/blending.py", "host = (1 - share) *", "host = share *"),
    ("classifier/blending.py", "(evidence.logits / weighing.host_temperature)", "evidence.logits"),
    ("classifier/blending.py", "len(ids) + 1)", "len(ids))"),
    ("classifier/blending.py", "evidence.scores.masked_fill(~there, 0.0) / weighing", "evidence.scores / weighing"),
    ("classifier/blending.py", "    return logits.softmax(-1) * there", "    return logits.softmax(-1)"),
    ("classifier/openset.py", "softplus((nearest - weighing.host_score) / weighing.width)", "softplus(nearest - weighing.host_score)"),
    ("classifier/openset.py", "logits.to(nearest.dtype) / weighing.host_temperature", "logits.to(nearest.dtype)"),
    ("classifier/openset.py", "others.masked_fill(speechless, 0.0)", "others"),
    ("classifier/openset.py", "(len(strangers) + 1) - 1e-9)", "len(strangers) - 1e-9)"),
    ("classifier/openset.py", " - 1e-9)", ")"),
    ("classifier/openset.py", "if not 0 < far < 1:", "if not 0 <= far <= 1:"),
    ("classifier/calibration.py", "right.double() - confidences)", "confidences)"),
    ("classifier/calibration.py", "ceil().clamp(1, bins).long() - 1", "floor().clamp(0, bins - 1).long()"),
    ("classifier/calibration.py", "nearby = [start, *(", "nearby = [start, *() and ("),
    ("classifier/calibration.py", "    if not log_loss(after, columns) <= log_loss(before, columns):", "    if False:"),
    ("classifier/wrapped.py", "        self.host_ids[torch.isin(", "        self.host_ids.clone()[torch.isin("),
    ("classifier/wrapped.py", "gone = self.memory.forget(labels=ids)", "gone = self.memory.forget(labels=ids[:1])"),
    ("classifier/wrapped.py", "if ref not in wanted]", "]"),
    ("classifier/wrapped.py", "buffer.copy_(before)", "pass"),
    ("classifier/wrapped.py", "self._names, self._refs, self._example_dims = kept", "pass"),
    ("classifier/wrapped.py", "        self._refs.move(old_slots.tolist())\n", "        pass\n"),
    ("classifier/wrapped.py", 'self.memory._refuse_if_read_only("refresh")', "pass"),
    ("classifier/wrapped.py", "self.memory.keys[encoded.slots] = encoded.keys", "pass"),
    ("classifier/wrapped.py", "self.weighing.copy_(torch.stack(weighing))", "pass"),
    ("classifier/wrapped.py", "recall.loss + vote", "recall.loss"),
    ("classifier/wrapped.py", "self.threshold.fill_(openset.threshold_at(strangers, far))", "openset.threshold_at(strangers, far)"),
    ("classifier/wrapped.py", "            if self.host.answers:\n", "            if False:\n"),
    ("classifier/refreshing.py", "            sums[there] += row\n", "            sums[there] = row\n"),
    ("classifier/refreshing.py", "drift_of(encoded: Encoded, memory: Memory) -> Drift:\n", "drift_of(encoded: Encoded, memory: Memory) -> Drift:\n    memory.keys[encoded.slots] = encoded.keys\n"),
    ("classifier/refreshing.py", "met, len(memory) - met)", "met, len(memory))"),
    ("classifier/doctor.py", "alive = (lengths - 1).abs() < 0.05", "alive = lengths > 0"),
    ("classifier/doctor.py", "if count < few]", "if count <= few]"),
    ("classifier/doctor.py", "found.setdefault((min(slot, other), max(slot, other)), clash)", "found.setdefault((slot, other), clash)"),
    ("classifier/doctor.py", "& (recall.scores >= near)", ""),
    ("classifier/doctor.py", "slots[~torch.isin(slots, answered)]", "slots[torch.isin(slots, answered)]"),
    ("classifier/persistence.py", "        os.replace(beside, path)\n", "        os.replace(beside, path) if path.exists() else path.write_bytes(content)\n"),
    ("classifier/persistence.py", "            os.fsync(file.fileno())\n", "            path.write_bytes(content)\n            os.fsync(file.fileno())\n"),
    ("classifier/persistence.py", "        os.unlink(beside)\n", "        pass\n"),
    ("classifier/persistence.py", "        os.chmod(beside, _mode_of(path))\n", ""),
    ("classifier/persistence.py", 'if metadata.get("format") != FORMAT:', 'if "format" not in metadata:'),
    ("classifier/persistence.py", "if version > VERSION:", "if version > 9:"),
    ("classifier/saving.py", '"validate": memory.validate,', '"validate": True,'),
    ("classifier/saving.py", "    classifier._read_book(header[\"book\"])\n", ""),
    ("classifier/saving.py", "if stored is None or stored.shape != tensor.shape:", "if stored is None:"),
    ("classifier/saving.py", "fields = vars(policy)", "pass"),
    ("integrations/sklearn.py", "zeros = ~X.any(axis=1, keepdims=True)", "zeros = np.zeros((len(X), 1))"),
    ("integrations/sklearn.py", "self._count += len(X)", "pass"),
    ("integrations/sklearn.py", "return np.asarray(chances.numpy()[:, self._order])", "return np.asarray(chances.numpy())"),
    ("integrations/sklearn.py", "self._order[np.searchsorted(self.classes_, y)]", "np.searchsorted(self.classes_, y)"),
    ("integrations/sklearn.py", "others[:, -1] &= ~others.all(dim=1)", "pass"),
    ("integrations/sklearn.py", "recall.scores / self.temperature", "recall.scores * self.temperature"),
    ("integrations/sklearn.py", "anew=not hasattr(self, \"memory_\")", "anew=True"),
    ("integrations/sklearn.py", "self.memory_.resize(max(needed, 2 * size))", "pass"),
    # Vectors
    ("vectors.py", "self.vectors[fresh], self.counts[fresh] = 0.0, 0", "pass"),
    ("vectors.py", "~occupied[write.slots] | (write.overwritten != EMPTY)", "write.overwritten != EMPTY"),
    ("vectors.py", "~occupied[write.slots] | (write.overwritten != EMPTY)", "~occupied[write.slots]"),
    ("vectors.py", "self.vectors[slots] * self.counts[slots].unsqueeze(1)", "self.vectors[slots]"),
    ("vectors.py", "self.vectors.masked_fill_(empty.unsqueeze(1), 0.0)", "pass"),
    ("vectors.py", "self.counts.masked_fill_(empty, 0)", "pass"),
    ("vectors.py", "self.memory.update.averages(hits).any()", "False"),
    ("vectors.py", "part.split(size)", "part.split(9)"),
    ("vectors.py", "k=self.memory.k if k is None else k", "k=self.memory.k"),
    # Noise
    ("noise.py", "place = clock * memory_size + first + 1", "place = clock + first + 1"),
    ("noise.py", "_shifted(z, 27)", "_shifted(z, 26)"),
    ("noise.py", "return (x >> bits) & ((1 << (64 - bits)) - 1)", "return x >> bits"),
    ("noise.py", "* 2.0**-52 - 1.0", "* 2.0**-53"),
    # In C++
    ("native/vectors.h", "if (!finite(query, queries.dim)) continue;", ""),
    ("native/vectors.h", "sums[row] += keys[row * dim + d] * query;", "sums[row] += keys[d] * query;"),
    ("native/vectors.h", "for (; slot < end; ++slot) {", "for (; slot + 1 < end; ++slot) {"),
    ("native/vectors.h", "sum += part;", "sum = part;"),
    ("native/nearest_pair.cpp", "second >= first - tolerance", "second > first"),
    ("native/nearest_pair.cpp", "if (value == EMPTY) continue;", ""),
    ("native/nearest_pair.cpp", "& (high == int32_t(value >> 32))", ""),
    ("native/nearest_pair.cpp", "if (!(sure > highest[side][lane])) continue;", "if (!(sure >= highest[side][lane])) continue;"),
    ("native/nearest_pair.cpp", "value != EMPTY && near;", "near;"),
    ("native/nearest_pair.cpp", "same ? all(-INFINITE) : scores[row]", "scores[row]"),
    ("native/nearest.cpp", "if (!occupied[at + i]) scores[i] = -INFINITE;", ";"),
    ("native/candidates.h", "lowest_of_best(k) - tolerance", "lowest_of_best(k)"),
    ("native/candidates.h", "keep_from(edge - tolerance);", "keep_from(edge);"),
    ("native/candidates.h", "threshold(block, size, k) - tolerance)", "threshold(block, size, k) + 0.01f)"),
    ("native/candidates.h", "doubt(edge + tolerance);", "doubt(edge);"),
    ("native/candidates.h", "-exact_score(query, keys[slots[i]], keys.dim), int32_t(i)", "exact_score(query, keys[slots[i]], keys.dim), int32_t(i)"),
    ("native/nearest.cpp", "for (int64_t part = 1; part < parts; ++part) best.join(", "for (int64_t part = 1; part < 1; ++part) best.join("),
    ("native/nearest.cpp", "slots + (query + 1) * k, EMPTY);", "slots + (query + 1) * k, 0);"),
    ("native/candidates.h", "(found >= k ? low : high) = middle;", "(found > k ? low : high) = middle;"),
    ("native/code.cpp", "length > LONGEST ? FAR :", ""),
    ("native/code.cpp", "if (slot != EMPTY) coder.code(slot);", "if (i > 0) coder.code(slot);"),
    ("native/code.cpp", "finite(key_.data(), keys_.dim) &&", ""),
    ("native/codes.h", "made.length <= LONGEST;", "true;"),
    ("native/codes.h", "std::min<int64_t>(room, most)", "most"),
    ("native/codes.h", "made.off = LONGEST * float(std::sqrt(squares_off))", "made.off = 0"),
    ("native/nearest_coded.cpp", "keys_off * query.length + query.off", "keys_off * (0.5f * query.length) + query.off"),
    ("native/nearest_coded.cpp", "if (!occupied[at + i]) upper[i] = -INFINITE;", ";"),
    ("native/nearest_coded.cpp", "candidates.count, k + 1);", "candidates.count, k + 3);"),
    ("native/nearest_coded.cpp", "few &= candidates[part * batch + row].count <= search.most();", ""),
    ("native/nearest_coded.cpp", "if (finite(queries[row], keys.dim)) {", "if (true) {"),
    ("native/nearest_coded.cpp", "best.keep_from(LOWEST);", ""),
    ("native/nearest_coded.cpp", "found + rows[i] * k);", "found + i * k);"),
    ("native/candidates.h", "if (int64_t(doubtful.size()) < count - k) doubt(INFINITE);", ""),
    ("lookup/native_codes.py", "if not known.watch.knows(keys):", "if False:"),
    ("lookup/native_codes.py", "self._following = self._known.watch.knows(keys)", "self._following = True"),
    ("lookup/native_codes.py", "self._known.codes.follow(keys, slots)", "pass"),
    ("lookup/native_codes.py", "self._known = known = _Known()", "known.__init__()"),
    ("lookup/native_codes.py", " and not keys.is_shared()", ""),
    ("lookup/native_codes.py", "return CodeCache().__dict__", "return self.__dict__"),
    ("lookup/native_codes.py", "self.missed + 2 * missed - queries", "self.missed"),
    ("lookup/native_codes.py", "not compiling and self", "self"),
    ("lookup/native.py", "return NativeLookup(codes=False)", "return self"),
    ("lookup/__init__.py", "[lookup.uncached() for lookup in self.lookups]", "self.lookups"),
    ("lookup/__init__.py", "lookup.after_write(keys, slots)", "pass"),
    ("native/score.cpp", "slots[i] == EMPTY", "slots[i] < EMPTY"),
    ("native/write.cpp", "gladness > other.gladness : slot < other.slot", "gladness > other.gladness : slot > other.slot"),
    ("native/write.cpp", "if (std::binary_search(barred_.begin(), barred_.end(), slot)) return;", ""),
    ("native/write.cpp", "age + reach >= best.least()", "age >= best.least()"),
    ("native/write.cpp", "volatile double rounded = a * b;", "double rounded = a * b;"),
    ("native/write.cpp", "else if (std::isnan(gladness[i])) best.offer(0.0, first + i);", "else if (std::isnan(gladness[i])) continue;"),
    ("native/write.cpp", "if (values[slot] == EMPTY) best.offer(INFINITE, slot);", "if (false) ;"),
    ("native/write.cpp", "if (labels[a] != labels[b]) return labels[a] < labels[b];", ""),
    ("native/write.cpp", "if (!(length > shortest)) return;", ""),
    ("native/write.cpp", "free[taken] == EMPTY) continue;", "false) continue;"),
    ("native/write.cpp", "overwritten[row] = values[slots[row]];", ""),
    ("native/write.cpp", "        *clock = now;\n", ""),
    ("native/write.cpp", "(z >> 27)", "(z >> 26)"),
    ("native/__init__.py", "    if isinstance(made, str):\n", "    if False:\n"),
    # A shadow, and programs
    ("shadow.py", "if not self._watch.knows(keys):", "if False:"),
    ("shadow.py", "slots if self._following else None", "slots"),
    ("shadow.py", "return torch.is_inference_mode_enabled() or not self.keys.is_inference()", "return True"),
    ("shadow.py", "slots = slots.reshape(-1) % len(keys)", "slots = slots.reshape(-1)[:1] % len(keys)"),
    ("shadow.py", "if (self.keys.shape, self.keys.device) != (keys.shape, keys.device):", "if False:"),
    ("shadow.py", "slots if self._following else None", "None"),
    ("lookup/ops.py", "if lowest < EMPTY or highest >= len(keys):", "if highest >= len(keys):"),
    ("native/__init__.py", "tensor.dtype in _DTYPES and tensor.is_contiguous()", "tensor.dtype in _DTYPES"),
    ("native/__init__.py", "return torch.empty(shape, dtype=dtype, device=\"cpu\")", "return torch.empty(shape, dtype=dtype)"),
    ("writing.py", "if gladness.shape != noise.shape or", "if"),
    ("writing.py", "if plain and math.isfinite(of_age + of_noise) else None", "if plain else None"),
    ("lookup/ops.py", "{} if shadow is None or not search.reads_shadow", "{} if shadow is None"),
    ("lookup/exact.py", "gradient = gradient.masked_fill(slots == EMPTY, 0.0)", "pass"),
)  # fmt: skip


# Imported once, before the forks: a run then starts in a moment.
COMMON = ("torch", "faiss", "safetensors.torch")


def copied(home: Path) -> Path:
    """A copy of what the tests of the core need."""
    for folder in ("rarememory", "tests", "docs"):
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
    run.join(timeout=300)
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
    own = (OWN.get(file) or OWN.get(file.partition("/")[0], f"tests/test_{file}")).split()
    rest = [test for test in TESTS if test not in own]
    red = first_failure(home, own) or first_failure(home, rest)
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
