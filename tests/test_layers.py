"""The rule of docs/architecture.md, kept: imports go downward only, heavy packages stay with their owners, no pickle.

Imports are read from the source, those inside functions too: putting an import into a function hides it from start-up
time, not from this test. Only what `LAZY` names, with its reason, may reach upward that way.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lowest first. Rooms in one row are siblings and never import each other; modules of one room may.
ROWS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("types", "errors", "__init__"),),
    (
        (
            "manifest",
            "manifest_fields",
            "manifest_models",
            "checked_json",
            "npy_files",
            "model_manifest",
            "model_facts",
            "openclip_config",
            "openclip_tokenizer",
            "model_catalog",
            "model_store",
            "byte_size",
            "weights_kind",
            "settings",
            "cuda_devices",
            "durable",
            "safe_text",
            "progress",
            "regular_file",
            "misplaced",
            "stored_file",
            "examination",
            "root_health",
            "models",
        ),
    ),
    (("text", "text_clean"), ("images", "image_*", "passages", "passage_*")),
    (
        (
            *("vector_index", "exact_search", "index_recall", "faiss_codes"),
            *("index_device", "refined_index", "faiss_gpu", "torch_index", "device_vectors", "float16_rounding"),
        ),
        (
            *("encoder", "model", "model_lookup", "onnx_session", "onnx_cache", "onnx_external_data", "itm", "hubness"),
            *("onnx_providers", "model_forms"),
            *("model_hub", "model_hub_listing", "model_plan", "model_pull"),
            *("model_import", "model_listing", "model_removal"),
            *("openclip_names", "torch_checkpoint"),
            *("openclip", "openclip_encoder", "openclip_modules", "openclip_weights"),
        ),
    ),
    (("store", "store_*"), ("snapshot", "snapshot_*", "segment", "segment_*")),
    (("search", "search_*", "rerank"),),
    (("eval", "eval.*"), ("indexer", "indexer.*")),
    (("training", "training.*"), ("tagging", "tag_*", "prompts", "label_list")),
    (("collection", "collection_*"),),
    (("demo", "demo_*"),),
    (("eval.bench", "eval.bench.*"),),
    (("cli", "cli.*", "__main__"),),
)

# (importer, imported, why it may). Function-level imports only.
LAZY: dict[tuple[str, str], str] = {
    ("__init__", "collection"): "the public door, opened when a name is first used",
    ("__init__", "model"): "the public door, opened when a name is first used",
}
# Rooms that a query runs through, and what none of their modules may import, not even inside a function.
QUERY_PATH = (
    *("search", "search_rerank", "rerank", "itm", "hubness"),
    *("snapshot", "segment", "vector_index", "exact_search", "faiss_codes", "encoder", "model", "text", "images"),
    *("model_lookup", "model_forms", "index_device", "refined_index", "faiss_gpu"),
)
NOT_ON_THE_QUERY_PATH = ("torch", "lancedb", "lance", "mmsearch.store", "mmsearch.indexer", "mmsearch.training")

OWNERS: dict[str, tuple[str, ...]] = {
    "lancedb": ("store", "store_*"),
    "lance": ("store", "store_*"),
    "faiss": ("faiss_codes", "eval.bench.index_kinds"),
    "ftfy": ("text_clean",),
    "open_clip": ("openclip", "openclip_*", "training.*", "eval.bench.small_clip_model"),
    "torch": (
        "openclip_*",
        "torch_checkpoint",
        "torch_index",
        "device_vectors",
        "training.*",
        "eval.bench.small_clip_model",
        "eval.bench.train_step",
        "eval.bench.encoder",
        "eval.bench.gpu_kinds",
    ),
    "onnxruntime": ("onnx_session", "onnx_providers", "onnx_cache", "training.*", "eval.bench.plain_loop"),
    "onnx": ("training.*", "eval.bench.peer_model"),
    # Only `mmsearch models pull` goes to a network.
    "huggingface_hub": ("model_hub",),
    **dict.fromkeys(("requests", "httpx", "urllib", "http", "ftplib", "aiohttp"), ()),
    "tokenizers": ("text", "training.*"),
    "typer": ("cli.*",),
    "rich": ("cli.*",),
}
BANNED_CALLS = ("torch.load", "eval", "exec")
BANNED_METHODS = (".register_custom_ops_library",)
BANNED_MODULES = ("pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle")
# The weights it starts from exist in no other form. Only with `weights_only=True`, from packages pinned to one version.
# A user's checkpoint is converted once, when they say that they trust it.
PICKLE_READERS = ("training.starting_weights", "torch_checkpoint")


@dataclass(frozen=True)
class Import:
    """One import statement's target, as `mmsearch.x` or the name of another package."""

    importer: str
    imported: str
    line: int
    in_function: bool


def modules() -> dict[str, Path]:
    """Dotted name below `mmsearch` -> file. `indexer/` and `eval/` are read where they lie, not through their links."""
    found = {}
    for folder, prefix in (("mmsearch", ""), ("indexer", "indexer."), ("eval", "eval.")):
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder)
            if folder == "mmsearch" and inside.parts[0] in ("indexer", "eval"):
                continue
            name = prefix + ".".join(inside.with_suffix("").parts)
            found[name if name == "__init__" else name.removesuffix(".__init__")] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_bytes(), str(path)) for name, path in MODULES.items()}


def imports(name: str) -> Iterator[Import]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = {id(inner) for node in ast.walk(TREES[name]) if isinstance(node, functions) for inner in ast.walk(node)}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            targets = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively; write the full name"
            module = node.module or ""
            joined = [f"{module}.{each.name}" for each in node.names]
            targets = [each if each.removeprefix("mmsearch.") in MODULES else module for each in joined]
        else:
            continue
        for target in targets:
            yield Import(name, target, node.lineno, id(node) in inside)


ALL_IMPORTS = [each for name in MODULES for each in imports(name)]


def place(name: str) -> tuple[int, int] | None:
    """Row and room of a module; None for one that no row mentions. The benches lie inside eval and stand above it."""
    for row, rooms in reversed(list(enumerate(ROWS))):
        for room, patterns in enumerate(rooms):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                return row, room
    return None


def own(target: str) -> str | None:
    """The module below `mmsearch` that `target` means, None for another package."""
    if target.split(".")[0] != "mmsearch":
        return None
    return target.removeprefix("mmsearch").lstrip(".") or "__init__"


def listed(found: list[Import]) -> str:
    return "\n".join(f"{each.importer}:{each.line} imports {each.imported}" for each in found)


def test_every_module_has_its_place_in_the_layers() -> None:
    assert [name for name in MODULES if place(name) is None] == [], "add it to ROWS, and to docs/architecture.md"


def test_imports_go_downward_only() -> None:
    wrong = []
    for each in ALL_IMPORTS:
        target = own(each.imported)
        if target is None or each.importer == "__init__":
            continue
        here, there = place(each.importer), place(target)
        assert here is not None and there is not None, (
            f"{each.importer}:{each.line} imports {each.imported}: no such room"
        )
        if there[0] > here[0] or (there[0] == here[0] and there != here):
            wrong.append(each)
    assert not wrong, listed(wrong)


def test_the_public_door_imports_nothing_of_ours_until_it_is_used() -> None:
    tree = TREES["__init__"]
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in at_once}
    assert names <= {"__future__", "importlib", "os", "typing"}
    lazy = {
        (each.importer, own(each.imported)) for each in ALL_IMPORTS if each.importer == "__init__" and each.in_function
    }
    assert lazy == {pair for pair in LAZY if pair[0] == "__init__"}


def test_collection_reaches_the_writing_rooms_only_inside_its_methods() -> None:
    wrong = [
        each
        for each in ALL_IMPORTS
        if each.importer == "collection"
        and not each.in_function
        and each.imported.startswith(("mmsearch.indexer", "mmsearch.store", "mmsearch.snapshot_writer"))
        and not in_type_checking(each)
    ]
    assert not wrong, listed(wrong)


def test_nothing_on_the_query_path_imports_what_only_indexing_needs() -> None:
    patterns = tuple(pattern for room in QUERY_PATH for pattern in (room, f"{room}.*"))
    wrong = [
        each
        for each in ALL_IMPORTS
        if any(fnmatch.fnmatchcase(each.importer, pattern) for pattern in patterns)
        and each.imported.startswith(NOT_ON_THE_QUERY_PATH)
        and not in_type_checking(each)
    ]
    assert not wrong, listed(wrong)


@pytest.mark.promise("R9")
@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_is_imported_by_its_owner_alone(package: str) -> None:
    wrong = [
        each
        for each in ALL_IMPORTS
        if each.imported.split(".")[0] == package
        and not any(fnmatch.fnmatchcase(each.importer, owner) for owner in OWNERS[package])
    ]
    assert not wrong, listed(wrong)


def test_nobody_imports_the_rooms_by_their_folder_names() -> None:
    wrong = [each for each in ALL_IMPORTS if each.imported.split(".")[0] in ("indexer", "eval")]
    assert not wrong, listed(wrong)


@pytest.mark.case("S39")
@pytest.mark.promise("R10")
def test_no_pickle_is_ever_loaded() -> None:
    wrong = [each for each in ALL_IMPORTS if each.imported.split(".")[0] in BANNED_MODULES]
    assert not wrong, listed(wrong)
    calls = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for name, call in calls:
        called = ast.unparse(call.func)
        keywords = {each.arg: ast.unparse(each.value) for each in call.keywords}
        where = f"{name}:{call.lineno} calls {called}"
        if called == "torch.load" and name in PICKLE_READERS:
            assert keywords.get("weights_only") == "True", where
        else:
            assert called not in BANNED_CALLS and not called.endswith(BANNED_METHODS), where
        if called in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle") == "False", f"{where} without allow_pickle=False"
        assert keywords.get("allow_pickle", "False") == "False", where
        assert "trust_remote_code" not in keywords, where


def in_type_checking(each: Import) -> bool:
    """True for an import that exists for static tools alone."""
    blocks = [
        node
        for node in ast.walk(TREES[each.importer])
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return any(block.lineno < each.line <= (block.end_lineno or 0) for block in blocks)
