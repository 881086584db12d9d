"""About eighty ways to damage the code, each of which must turn a test red.

A damage names a function and an edit of its syntax tree, and quotes no source line, so that most
changes of the code leave it as it is. tests/test_damages.py checks that every damage still applies;
`make damage` applies them one by one and runs the tests.
"""

import ast
from collections.abc import Callable
from typing import Any, NamedTuple


class Edit(NamedTuple):
    """Replace the `nth` node that matches, counted from 0; an outer one comes before its parts."""

    what: str
    matches: Callable[[Any], bool]
    replaced: Callable[[Any], ast.AST]
    nth: int = 0


class Damage(NamedTuple):
    """An edit of a function, named as in "memory/updates.py:AverageOrReplace.weights"."""

    place: str
    edit: Edit

    @property
    def file(self) -> str:
        return f"rarememory/{self.place.partition(':')[0]}"

    def __str__(self) -> str:
        return f"{self.place} {self.edit.what}" + f" #{self.edit.nth}" * (self.edit.nth > 0)


class _Editor(ast.NodeTransformer):
    def __init__(self, edit: Edit) -> None:
        self.edit, self.count = edit, 0

    def visit(self, node: ast.AST) -> Any:
        if self.edit.matches(node):
            self.count += 1
            if self.count == self.edit.nth + 1:
                return self.edit.replaced(node)
        return self.generic_visit(node)


def damaged(damage: Damage, source: str) -> str:
    """The source of the file with the damage in it.

    Raises:
        LookupError: there is no such function, or the edit does not apply to it.
    """
    tree: Any = ast.parse(source)
    before = ast.unparse(tree)
    node = tree
    for name in damage.place.partition(":")[2].split("."):
        found = [inner for inner in node.body if getattr(inner, "name", None) == name]
        if not found:
            raise LookupError(f"{damage.file} has no {damage.place.partition(':')[2]}")
        node = found[-1]
    editor = _Editor(damage.edit)
    node.body = [editor.visit(statement) for statement in node.body]
    after = ast.unparse(ast.fix_missing_locations(tree))
    if after == before:
        raise LookupError(f"there is nothing to change: {damage}")
    return after


def drop(name: str, nth: int = 0) -> Edit:
    """Leave out a statement that calls `name`."""
    return Edit(
        f"without {name}()",
        lambda node: isinstance(node, ast.Expr) and _calls(node.value, name),
        lambda _: ast.Pass(),
        nth,
    )


def drop_raise(nth: int = 0) -> Edit:
    return Edit(
        "without raise", lambda node: isinstance(node, ast.Raise), lambda _: ast.Pass(), nth
    )


def unwrap(name: str, nth: int = 0) -> Edit:
    """`x.name(...)`, `name(x, ...)` and `torch.name(x, ...)` become x."""

    def replaced(node: Any) -> Any:
        method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) != "torch"
        return node.func.value if method else node.args[0]

    return Edit(f"{name}(x) -> x", lambda node: _calls(node, name), replaced, nth)


def without(keyword: str, nth: int = 0) -> Edit:
    """Leave out a keyword argument."""
    return Edit(
        f"without {keyword}=",
        lambda node: keyword in [one.arg for one in getattr(node, "keywords", [])],
        lambda node: _changed(node, keywords=[k for k in node.keywords if k.arg != keyword]),
        nth,
    )


def unwrap_with(nth: int = 0) -> Edit:
    """What is in a `with` block, without the block."""
    return Edit(
        "without with",
        lambda node: isinstance(node, ast.With),
        lambda node: ast.If(ast.Constant(True), node.body, []),
        nth,
    )


def condition(value: bool, nth: int = 0) -> Edit:
    """Make the condition of an `if`, a `while` or an `x if y else z` always the same."""
    return Edit(
        f"condition -> {value}",
        lambda node: isinstance(node, ast.If | ast.While | ast.IfExp),
        lambda node: _changed(node, test=ast.Constant(value)),
        nth,
    )


def returns(text: str, nth: int = 0) -> Edit:
    new = ast.Return(_parsed(text))
    return Edit(f"return {text}", lambda node: isinstance(node, ast.Return), lambda _: new, nth)


def number(old: object, new: object, nth: int = 0) -> Edit:
    return Edit(
        f"{old} -> {new}",
        lambda node: isinstance(node, ast.Constant) and repr(node.value) == repr(old),
        lambda _: ast.Constant(new),
        nth,
    )


def operator(old: str, new: str, nth: int = 0) -> Edit:
    """Another operator: of arithmetic, bits, comparison, or `and` for `or`."""
    sample, other = _parsed(f"a {old} b"), _parsed(f"a {new} b")
    field = "ops" if isinstance(sample, ast.Compare) else "op"
    return Edit(
        f"{old} -> {new}",
        lambda node: type(node) is type(sample) and _operator(node) is _operator(sample),
        lambda node: _changed(node, **{field: getattr(other, field)}),
        nth,
    )


def only(side: str, of: str, nth: int = 0) -> Edit:
    """Of `a & b`, `a and b`, `a * b` ... only the "left" or the "right" operand."""
    place = 0 if side == "left" else -1
    operands = lambda node: node.values if hasattr(node, "values") else [node.left, node.right]  # noqa: E731
    matches = operator(of, of).matches
    return Edit(f"only the {side} of {of}", matches, lambda node: operands(node)[place], nth)


def _parsed(text: str) -> Any:
    return ast.parse(text, mode="eval").body


def _calls(node: Any, name: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return name == getattr(node.func, "attr", None) or name == getattr(node.func, "id", None)


def _operator(node: Any) -> type:
    return type(node.ops[0] if isinstance(node, ast.Compare) else node.op)


def _changed(node: Any, **fields: Any) -> Any:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


_TABLE: dict[str, dict[str, list[Edit]]] = {
    "base/state.py": {
        "MemoryState.occupied": [operator("!=", "==")],
        "MemoryState.ages": [unwrap("masked_fill"), operator("-", "+")],
        "Recall.weights": [operator("/", "*"), only("left", "*")],
    },
    "base/validation.py": {
        "check_count": [drop_raise(), number(1, 2)],
        "check_not_negative": [operator(">=", ">")],
        "check_positive": [operator(">", ">=")],
        "check_key_dtype": [drop_raise()],
    },
    "base/files.py": {
        "write_atomically": [
            drop("fsync", 0),
            drop("fsync", 1),
            drop("chmod"),
            drop("_remove_abandoned_drafts"),
        ],
        "_target": [condition(False), returns("path"), drop_raise()],
        "_draft_folder": [drop("flock")],
        "_remove_if_abandoned": [drop("flock"), drop("rmtree")],
    },
    "base/tensor_files.py": {
        "read_tensors": [drop_raise(0), drop_raise(2), condition(False, 1)],
        "_canonical": [without("sort_keys")],
    },
    "base/progress.py": {"progress_bar": [without("initial"), condition(False, 0), drop_raise()]},
    "memory/updates.py": {
        "noise_at": [operator("-", "+"), number(27, 28)],
        "ByAgeAndNoise.eviction": [operator("+", "-")],
        "ByUsage.averages": [condition(True)],
        "LeastRecentlyUsed.eviction_by_usage": [operator("+", "-")],
        "LeastUsed.eviction_by_usage": [operator("-", "+")],
        "AverageOrReplace.__post_init__": [drop("check_finite")],
        "AverageOrReplace.weights": [returns("(1.0, 1.0)")],
        "AverageOrReplace.averages": [returns("~hits")],
        "ByAgeAndNoise.averages": [returns("hits")],
        "ByAgeAndNoise.weights": [returns("(0.0, 1.0)")],
        "AverageOrReplaceRandom.weights": [returns("(1.0, 0.0)")],
    },
    "memory/selections.py": {
        "Herding.__call__": [operator("+", "-"), unwrap("nan_to_num"), unwrap("_rounded")],
        "ClosestToCentre.__call__": [without("descending"), unwrap("_rounded")],
    },
    "memory/budgets.py": {
        "PerClass.__post_init__": [drop("check_count"), drop_raise()],
        "PerClass.averages": [condition(True)],
        "Protected.__post_init__": [*map(drop_raise, range(3)), drop("__setattr__")],
    },
    "memory/placing.py": {
        "_classes": [unwrap("isin")],
        "_replace": [operator("-", "+"), without("descending")],
        "_select": [operator("+", "-"), operator("not in", "in")],
        "_draw": [operator("+", "-"), operator("<", "<=", 1)],
        "assigned": [drop_raise(), operator("!=", "==")],
    },
    "memory/drafts.py": {
        "Draft._new": [operator(">=", ">")],
        "Draft._adjusted": [condition(False), condition(False, 3), returns("slots", 3)],
        "Draft._best": [operator("|", "&"), condition(False, 1)],
        "Draft.oldest": [condition(False), condition(True, 1)],
        "Draft._followed": [condition(False), condition(False, 1)],
    },
    "store/log.py": {
        "transaction": [drop("_roll_back")],
        "_since": [operator("!=", "==")],
        "_new": [condition(False), condition(False, 1)],
        "_at_once": [condition(False, 1)],
        "_write": [operator("+", "-"), drop("execute", 3)],
    },
    "store/replica.py": {"Replica.leave": [drop("leave")]},
    "store/classifier.py": {
        "StoredClassifier._settle": [condition(False, 0), drop("_check_encoder")],
        "StoredClassifier._take_change": [condition(False, 0), drop("_check_facts")],
        "StoredClassifier._catch_up_with": [condition(True)],
        "StoredClassifier._foreseen": [condition(False)],
        "StoredClassifier._noted": [condition(False)],
        "StoredClassifier._foreseen_again": [condition(False, 1), only("left", "or", 0)],
    },
    "memory/foreseeing.py": {
        "foresee": [condition(False), condition(False, 1)],
        "foresee_again": [operator("+", "-")],
    },
    "store/foreseeing.py": {
        "foreseen": [condition(False), condition(False, 2), drop("put_into_rows")],
        "_place_of": [operator("*", "+")],
        "_again": [returns("stored")],
        "_may_be_lost": [returns("False"), returns("True")],
        "_not_seen": [operator("==", "!="), operator("//", "*")],
    },
    "store/contents.py": {"put_change": [drop("put_refs"), drop("put_labels")]},
    "memory/losses.py": {
        "margin_loss": [operator("+", "-"), unwrap("relu"), unwrap("masked_fill")],
        "vote_loss": [operator("/", "*"), only("left", "&"), unwrap("where")],
        "_mean_of": [unwrap("clamp"), condition(False)],
    },
    "memory/at_once.py": {
        "write_at_once": [drop("increment_version")],
        "_read_pair_each": [operator("//", "+")],
        "PairWithGradient.backward": [operator("-", "+"), unwrap("masked_fill")],
    },
    "memory/queries.py": {
        "normalized": [only("left", "&"), only("right", "&")],
        "rows_of": [only("left", "&"), unwrap("masked_fill")],
        "recalled_rows": [drop_raise(), operator(">=", ">"), only("left", "or", 1)],
        "_check_queries": [drop_raise(0), drop_raise(1), drop_raise(2)],
        "_with_good_labels": [operator(">=", ">")],
        "one_a_query": [drop_raise(0), drop_raise(1)],
        "nearest_slots": [unwrap("masked")],
    },
    "memory/writing.py": {
        "all_written": [operator(">", "<")],
        "write": [only("right", "&"), only("left", "&", 1)],
        "_eviction_order_natively": [unwrap("contiguous")],
        "eviction_order": [
            drop("masked_fill_"),
            drop("index_fill_"),
            operator("<=", "<", 1),
            without("descending"),
        ],
        "_own_order": [returns("order")],
        "is_queue": [only("left", "and")],
    },
    "memory/module.py": {
        "Memory.forward": [only("left", "or")],
        "Memory.write": [only("left", "and")],
        "Memory._loss": [operator("-", "+")],
        "Memory.rows_to_write": [drop("require_writable")],
        "Memory._write_once": [operator("!=", "==")],
        "Memory._fill": [drop("fill")],
        "Memory._write_at_once": [drop("_fill")],
        "Memory.record": [drop("require_writable"), drop("record")],
        "Memory.merge": [
            drop_raise(),
            *map(drop, ("require_writable", "check_stored", "keep", "align")),
            *(drop("_before_write"), drop("_after_write")),
        ],
        "Memory.forget": [drop("require_writable"), drop("empty")],
        "Memory.clear": [drop("require_writable"), drop("empty")],
        "Memory.resize": [drop("require_writable"), drop("check_count")],
        "Memory.read_only": [number(1, 0)],
        "Memory.__bool__": [returns("len(self) > 0")],
        "Memory.__getstate__": [returns("self.__dict__")],
    },
    "memory/invariants.py": {
        "check_state": [*(drop("_refuse", nth) for nth in range(6)), drop_raise(1), drop_raise(2)],
        "_check_type": [drop_raise(0), drop_raise(1), drop_raise(2)],
        "check_fits": [drop_raise(0), drop_raise(1), drop_raise(2)],
    },
    "classifier/invariants.py": {
        "check_header": [drop_raise(0)],
        "_check_policy": [drop_raise()],
        "check_ensembler": [drop_raise(0), drop_raise(1)],
        "book_of": [drop_raise(0)],
    },
    "classifier/locked_module.py": {"LockedModule.change": [unwrap_with()]},
    "play/page.py": {"Page._check": [drop_raise()], "Page._done": [unwrap_with()]},
    "integrations/tables.py": {
        "to_frame": [without("dtype")],
        "from_frame": [drop_raise()],
        "write_table": [drop_raise(0), drop_raise(1), drop_raise(2)],
        "_take": [drop_raise(0), drop_raise(1), drop("note_refs"), drop("pop")],
        "_refs_of_row": [drop_raise(), condition(True, 1)],
        "_read_npz": [drop_raise(0), drop_raise(1), operator("or", "and")],
        "_read_parquet": [without("page_checksum_verification")],
        "_memory_of": [
            *(drop_raise(0), drop_raise(1), drop("clear"), drop("set_width")),
            *(operator("-", "+"), operator("-", "+", 1)),
        ],
        "_numbers": [drop_raise(0), drop_raise(1), drop_raise(2)],
    },
    "memory/stats.py": {"stats_of": [operator("/", "*"), operator(">", ">=")]},
    "memory/merging.py": {
        "places": [operator("<", "<=")],
        "check_alike": [drop_raise(0), drop_raise(1)],
        "check_mergeable": [drop_raise(0), drop_raise(1)],
        "put_values": [drop_raise(), unwrap("where")],
        "align": [drop("add_"), drop("copy_"), operator("+", "-")],
        "take_over": [drop("empty"), unwrap("masked_fill")],
    },
    "memory/usage.py": {
        "Usage.record": [drop("add_"), drop("count_answers")],
        "Usage.count_answers": [drop("index_add_"), drop("scatter_reduce_")],
        "counted": [drop_raise()],
        "answered": [drop_raise()],
        "Usage.idle": [operator("-", "+")],
    },
    "memory/filters.py": {
        "Filter.parts": [condition(True)],
        "Filter._of_some": [only("left", "&"), only("right", "|")],
        "Filter.of_each_row": [only("left", "or"), only("right", "or")],
        "_one_a_row": [drop_raise()],
        "filter_of": [drop_raise(0), condition(True, 0)],
        "_among": [only("left", "&"), *map(drop_raise, range(3))],
        "_found_among": [only("left", "&")],
        "among_tensor": [drop_raise(0), drop_raise(1)],
    },
    "memory/searching.py": {
        "FilteredSearch.pair": [unwrap("masked_fill"), condition(False)],
        "FilteredSearch._without_one": [
            *(operator("+", "-"), operator("+", "-", 1)),
            *(unwrap("masked_fill"), without("stable")),
        ],
        "FilteredSearch._pair_of_some": [only("left", "&"), only("right", "&")],
    },
    "memory/forgetting.py": {
        "meets": [
            *(operator(">", ">="), drop_raise(0), drop_raise(1), drop("check_not_negative")),
        ],
    },
    "memory/slots.py": {
        "numbers_of": [number("reads", "seed")],
        "SlotBuffers.empty": [drop("masked_fill_")],
        "SlotBuffers.moved": [unwrap("masked_fill")],
    },
    "memory/resizing.py": {
        "kept_slots": [operator("<", "!="), unwrap("where")],
        "by_age": [without("stable"), without("stable", 1)],
        "check_room": [drop_raise()],
    },
    "memory/checkpoints.py": {
        "stored_parts": [drop_raise()],
        "fitted": [drop_raise(0)],
    },
    "base/caches.py": {"Cache.after_write": [drop("update"), condition(True)]},
    "variants/batched.py": {
        "BatchedMemory._moved": [unwrap("where"), operator("*", "+")],
        "BatchedMemory._check_stored": [drop("check_fits"), drop_raise()],
        "BatchedMemory._check_memories": [drop_raise()],
        "BatchedMemory.forget": [drop_raise(), operator("&", "|")],
        "_check_alone": [drop_raise()],
        "_check_alike": [drop_raise()],
    },
    "variants/mean.py": {
        "MeanMemory.joined": [
            *(returns("None", 1), operator(">", "<"), unwrap("where"), unwrap("clamp")),
            *(drop("copy_"), without("include_self"), only("left", "*")),
        ],
    },
    "variants/vector.py": {"VectorMemory._load_from_state_dict": [condition(False)]},
    "lookup/exact.py": {
        "k_nearest": [without("descending"), operator("<", "<=")],
        "nearest_slot": [condition(False), unwrap("masked_fill")],
    },
    "lookup/ops.py": {
        "nearest": [condition(True)],
        "_asked_in_turn": [operator("==", "!=")],
        "_search": [condition(False, 2)],
    },
    "base/derived.py": {"Derived.of": [only("left", "and")]},
    "base/locks.py": {
        "ReadersWriterLock.reading": [drop("_wait_for_writer")],
        "ReadersWriterLock.writing": [condition(True)],
        "ReadersWriterLock.reset_after_fork": [condition(True), drop("acquire"), drop("clear")],
        "_Writing.__enter__": [drop_raise(), drop("acquire", 1)],
        "_Writing.__exit__": [condition(False), drop("release")],
    },
    "lookup/pair.py": {"nearest_pair": [returns("(positives[0], negatives[0])")]},
    "native/__init__.py": {"_with_pointers": [unwrap("_address_of")]},
    "lookup/native.py": {
        "_are_of_keys": [returns("True"), drop("count_misses")],
        "_contiguous": [unwrap("contiguous", 0), unwrap("contiguous", 1)],
        "NativeLookup.nearest": [unwrap("contiguous")],
        "NativeLookup.nearest_pair": [unwrap("contiguous", 0), unwrap("contiguous", 1)],
    },
    "lookup/native_codes.py": {"Codes.update": [unwrap("contiguous")]},
    "lookup/indexed.py": {
        "IndexedLookup.nearest": [operator("<", "<="), unwrap("masked_fill"), unwrap("min")],
        "IndexedLookup.__getstate__": [returns("self.__dict__")],
    },
    "classifier/class_scores.py": {
        "ClassScores.of": [operator("-", "+"), operator("/", "*")],
        "ClassScores.factor": [operator("-", "+")],
        "ClassScores.bias": [operator("-", "+"), operator("/", "*")],
        "ClassScores.bounded": [unwrap("maximum")],
        "_weight": [operator("-", "+")],
    },
    "classifier/labels.py": {
        "_check_kept": [drop_raise()],
        "one_spelling": [unwrap("normalize"), condition(False)],
    },
    "classifier/outputs.py": {"_check_numbers": [drop_raise(), drop_raise(1), drop_raise(2)]},
    "classifier/wrappers.py": {"_is_in_program": [returns("False", 1)]},
    "classifier/roots.py": {
        "are_compared_by_roots": [condition(False), returns("False", 1), returns("True", 1)],
        "unit_roots": [unwrap("sqrt"), unwrap("clamp"), operator("*", "+")],
    },
    "classifier/leave_class_out.py": {
        "foreign_scores": [operator("-", "+"), operator("+", "-")],
        "_mean_of_others": [unwrap("fill_diagonal_"), operator("-", "+")],
        "_shifted": [operator("/", "*"), operator("+", "-")],
    },
    "classifier/leave_one_out.py": {
        "left_out_products": [number(1e-5, 1e-2)],
        "LeftOutProducts.own_variance": [operator("-", "+"), operator("/", "*")],
        "LeftOutProducts.scores": [operator("-", "+")],
    },
    "classifier/forms.py": {
        "answers_more": [operator(">", "<"), unwrap("argsort")],
        "form_of": [condition(False), condition(False, 1)],
        "better_form": [condition(False)],
        "_is_kernel_better": [returns("False")],
    },
    "classifier/kernel_regression.py": {
        "telling": [operator("-", "+"), operator("/", "*")],
        "Telling.without": [operator("-", "+"), operator("/", "*"), operator(">", "<")],
        "regressed": [operator("/", "*")],
        "Regression.left_out": [operator("-", "+"), operator("/", "*")],
        "Regression.foreign": [unwrap("scatter")],
        "fitted_settings": [operator(">", "<")],
    },
    "classifier/nearest_reader.py": {"NearestReader.left_out": [unwrap("where")]},
    "classifier/doctor.py": {"_outweighed": [operator("<", ">")], "examine": [only("left", "or")]},
    "classifier/fingerprint.py": {
        "Fingerprint.to_json": [condition(False)],
        "_form": [condition(False)],
        "check_one_encoder": [drop_raise(), operator(">", "<"), condition(False)],
        "_features_now": [condition(False)],
    },
    "classifier/forgetting.py": {"forget_examples": [unwrap("one_spelling")]},
    "classifier/examples.py": {"_whole_texts": [drop_raise(), condition(False)]},
    "classifier/arrays.py": {"_table": [drop_raise()]},
    "commands/images.py": {
        "_paper_for": [operator(">", "<"), only("right", "and")],
        "_bytes_of_floats": [condition(False), operator("-", "+")],
        "_bytes_of_integers": [number(8, 7)],
    },
    "classifier/heads.py": {"check_seen": [drop_raise()]},
    "classifier/guesses.py": {"width_of": [drop("set_width", 0), drop("set_width", 1)]},
    "classifier/classifier.py": {"MemoryClassifier.merge": [drop_raise(), drop("match_buffers")]},
    "classifier/beside_keys.py": {
        "put_into_rows": [condition(False)],
        "has_norms": [returns("False")],
        "adopt_buffers": [condition(False), condition(False, 1)],
        "check_buffers": [drop_raise(0), drop_raise(1), drop_raise(2)],
        "match_buffers": [drop("register_slot_buffer"), drop("remove_slot_buffer")],
    },
    "classifier/tuned_keys.py": {
        "TunableKeys.losses": [without("without")],
        "TunableKeys.logits": [unwrap("normalize"), unwrap("masked_fill"), condition(False)],
        "TunableKeys.own": [only("left", "&"), operator(">=", "<")],
        "TunableKeys.write_back": [drop_raise(0), drop_raise(1), drop("require_writable")],
        "learnt_keys": [returns("memory.keys", 1)],
        "untune": [drop("remove_slot_buffer")],
        "untuned": [drop("_put")],
        "adopt_untuned": [condition(False), condition(False, 1)],
        "check_untuned": [drop_raise(0), drop_raise(1)],
    },
    "classifier/labelled.py": {"LabelledOutputs.parted": [drop_raise()]},
    "classifier/finetuning.py": {
        "Judge.__init__": [drop("forget")],
        "finetune": [operator(">", "<"), operator(">=", ">"), drop("copy_"), drop("zero_grad")],
    },
    "classifier/rehearsal.py": {"host_level": [returns("level")]},
    "classifier/max_logit.py": {
        "above_mean": [unwrap("where")],
        "MaxLogit.beside": [condition(False), operator("-", "+"), unwrap("max")],
        "MaxLogit.terms": [unwrap("masked_fill")],
    },
    "classifier/calibration.py": {"between": [condition(True)], "quality": [condition(False)]},
    "classifier/answering.py": {"Answerer.calibrated": [condition(False, 1)]},
    "classifier/tuning.py": {"best_reader": [operator(">", "<")]},
    "classifier/metric.py": {"best_scale": [operator("<", ">"), operator("<=", ">")]},
    "classifier/refinement.py": {"refined": [operator("*", "/", 2)]},
    "distributed/replicated.py": {
        "gathered": [drop("_check_alike")],
        "_masked_rows": [returns("(rows, checked.labels)", 1)],
        "broadcast_state": [condition(False, 4)],
    },
    "distributed/ranks.py": {
        "Ranks.gather": [condition(False)],
        "Ranks._check": [drop_raise(1)],
    },
    "distributed/candidates.py": {"Candidates.of": [operator("+", "-"), unwrap("where", 1)]},
    "distributed/shards.py": {"Shard.local": [operator(">=", ">"), operator("-", "+")]},
    "distributed/stake.py": {"stake_of": [number(2, 0), operator("+", "-", 2)]},
    "distributed/sharded.py": {
        "ShardedMemory._write_once": [drop("_fill")],
        "ShardedMemory.record": [drop("count_answers")],
    },
    "memory/spans.py": {"Span.noise": [condition(False), operator("+", "-", 1)]},
    "base/spot_checks.py": {
        "scattered": [condition(False)],
        "SpotCheck.next": [operator("+", "-")],
        "record_uncounted_change": [drop("increment_version"), drop("warn")],
    },
    "evaluation/sighting.py": {
        "sighting_accuracy": [drop("clear"), operator("+", "-", 1)],
        "_answer_then_write": [drop("write")],
    },
    "evaluation/support_query.py": {"episode_accuracies": [drop("clear"), drop_raise()]},
    "evaluation/runs.py": {
        "_check": [drop_raise(0), drop_raise(1)],
        "_episode": [operator("-", "+")],
    },
    "evaluation/plots.py": {
        "plot_embedding": [operator("-", "+"), operator("<=", ">"), drop_raise()],
        "plot_ages": [operator("+", "-"), condition(True)],
        "plot_confusions": [drop_raise(), operator("/", "*"), unwrap("clamp"), condition(True, 1)],
        "_colours": [condition(True)],
    },
    "evaluation/embedding.py": {"embed": [drop("eval"), operator("/", "*")]},
    "evaluation/lifelong.py": {"lifelong_accuracy": [drop("write")]},
    "data/episodes.py": {
        "sightings_of": [drop_raise(), unwrap("argsort")],
        "support_query_episode": [operator(">", ">=")],
    },
}

DAMAGES = [
    Damage(f"{file}:{function}", edit)
    for file, functions in _TABLE.items()
    for function, edits in functions.items()
    for edit in edits
]
