"""The tree of docs/architecture.md: what imports what, and where each test lies."""

import ast
import collections
import fnmatch
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "clipjax"
TESTS = ROOT / "tests"

# A module may import from its own level and from those below (further right).
LEVELS = [
    ["train", "evaluate", "compare", "embed", "export", "prepare", "library", "testing"]
    + ["monitor", "doctor"]
    + ["search", "search_index", "study", "studies"]
    + ["__main__", "whole_runs", "suites", "embedding_job"]
    + ["evaluation_request", "follow", "leak_check", "setup_check"]
    + ["report", "report_parts", "maps"],
    ["commandline", "data_flags", "evals_flags", "help_pages", "loaded"]
    + ["stored_evaluation", "monitoring", "saliency", "run_command", "checkup"]
    + ["user_files"],
    ["engine"],
    ["evals", "losses", "optim", "models", "data", "encoder", "weights"]
    + [
        "results",
        "row_files",
        "run_record",
        "result_tables",
        "class_recalls",
        "comparison",
    ]
    + ["reliability", "study_statistics"]
    + ["image_batches", "text_batches", "image_inputs", "text_inputs"]
    + [
        "item_errors",
        "encoded",
        "encoded_batches",
        "data_wait",
        "embeddings",
        "identity",
    ]
    + ["match_cutoff", "embedding_copies"],
    ["config", "config_addresses", "config_check", "config_keys", "config_limits"]
    + ["config_options", "config_parts", "config_sections"],
    ["option_checks", "batch_sizes"],
    ["registry"],
    ["multihost", "cache", "downloads"],
    ["paths"],
    ["peers"],
    ["links", "pulse", "atomic_files", "param_paths", "preempt", "malloc"]
    + ["byte_sizes", "cores"]
    + ["probabilities"],
    ["types"],
    ["eval_types"],
]
# What a folder imports of others on its level, itself and its parts aside: the rows
# "| data/text/ | data/, data/storage/ |" of the document.
FOLDERS = {
    folder: [name.strip().rstrip("/").removesuffix(".py") for name in names.split(",")]
    for folder, names in re.findall(
        r"^\| ([a-z_/]+)/ \| ([^|]+) \|$",
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}
HOMES = {
    "flax.linen": ["models", "testing/"],
    "orbax": ["engine/checkpoint/"],
    "grain": ["data/"],
    "array_record": ["data/containers/record_shards.py"],
    "cv2": ["data/images/opencv.py"],
    "absl.flags": ["commandline.py", "data/batching/pipeline.py"],
    "tensorflow": [],
    "torch": [],
    "pickle": ["weights/tensors/torch_zip.py", "testing/"],
}
# Modules without a test file of their name -> the files that test them: what they do
# shows only together with others, or one file holds a whole family to one contract.
TESTED_BY = {
    "__main__": "scenarios/test_command_names",
    "batch_sizes": "test_encoder",
    "byte_sizes": "monitoring/test_screen test_prepare",
    "cache": "test_paths",
    "commandline": "scenarios/test_commands",
    "data_flags": "scenarios/test_run_data test_prepare",
    "checkup/*": "test_doctor",
    "comparison/differences": "comparison/test_compared",
    "comparison/matching": "comparison/test_compared",
    "comparison/shared_rows": "comparison/test_compared",
    "comparison/comparison_tables": "test_compare",
    "config_*": "test_config scenarios/test_config_files "
    "scenarios/test_random_mistakes",
    "data/annotations/caption_entries": "data/annotations/test_image_list",
    "data/annotations/caption_[jl]*": "data/annotations/test_caption_columns "
    "data/annotations/test_caption_tables",
    "data/annotations/coco_json": "data/sources/test_coco",
    "data/annotations/flickr_tables": "data/annotations/test_caption_tables",
    "data/batching/batches": "data/batching/test_stalls",
    "data/batching/order": "data/batching/test_pipeline",
    "data/batching/prefetch": "data/batching/test_stalls",
    "data/batching/workers": "data/batching/test_stalls engine/test_shared_memory",
    "data/containers/parquet_*": "data/sources/test_parquet "
    "data/sources/test_parquet_texts",
    "data/containers/record_shards": "data/sources/test_arrayrecord",
    "data/containers/tar_members": "data/images/test_image_files",
    "data/images/auto_augment": "data/images/test_augment",
    "data/images/image_warps": "data/images/test_imagenet_c",
    "data/images/crops": "data/images/test_augment data/images/test_opencv",
    "data/images/preprocess": "data/images/test_decoding",
    "data/mixture_spec": "data/sources/test_mixture",
    "data/prepare/*": "test_prepare test_leak_check",
    "data/sources/karpathy": "data/sources/test_coco",
    "data/storage/brace_patterns": "data/storage/test_remote_places",
    "data/storage/file_contents": "scenarios/test_nothing_found",
    "data/storage/json_files": "data/sources/test_coco",
    "data/storage/local": "data/sources/test_captions",
    "data/storage/shard_files": "data/storage/test_remote_places",
    "data/synthetic/*": "data/sources/test_scenes",
    "data/text/[cp]*": "data/tokenizers/test_tokenizers",
    "data/tokenizers/*": "data/tokenizers/test_tokenizers "
    "data/tokenizers/test_tokenizer_kinds data/tokenizers/test_tokenizer_readers "
    "data/tokenizers/test_trained_tokenizers",
    "embed": "test_embedding_job",
    "embeddings/*": "embeddings/test_stored test_embedding_job",
    "encoded": "test_encoder",
    "encoded_batches": "test_encoder search_index/test_index_job",
    "downloads": "data/tokenizers/test_tokenizer_readers",
    "engine/first_state": "engine/test_initial",
    "engine/fitting": "engine/test_architecture",
    "engine/assemble": "scenarios/test_report_configs",
    "engine/checkpoint/layout": "engine/checkpoint/test_saves",
    "engine/checkpoint/orbax_handler": "engine/checkpoint/test_saves",
    "engine/checkpoint/manifest": "engine/checkpoint/test_step_folder",
    "engine/classes": "models/test_classifier data/test_class_lists",
    "engine/datasets": "scenarios/test_run_data",
    "engine/describe": "scenarios/test_commands",
    "engine/lost_text_report": "data/text/test_lost_texts",
    "engine/memory_check": "scenarios/test_random_mistakes",
    "engine/embedded": "test_embedding_job",
    "engine/part_encoding": "test_embedding_job",
    "engine/progress": "engine/test_loop",
    "engine/recording": "run_record/test_heartbeat",
    "engine/rising_rate": "engine/test_rate_curve",
    "engine/relay": "scenarios/test_hosts engine/test_distributed",
    "engine/run": "engine/test_loop",
    "engine/sharding": "engine/test_step",
    "engine/state": "engine/test_step",
    "engine/step_log": "engine/test_loop engine/test_resume",
    "evals/*": "evals/test_evals",
    "evals/classification": "models/test_classifier",
    "evals/common/*": "evals/test_evals",
    "evals/common/altered_inputs": "evals/test_corruptions",
    "evals/common/label_results": "evals/test_knn evals/test_probe",
    "evals_flags": "test_whole_runs",
    "evaluate": "scenarios/test_commands scenarios/test_run_data",
    "evaluation_request": "test_whole_runs scenarios/test_run_data",
    "export": "engine/test_initial",
    "image_batches": "test_encoder",
    "text_inputs": "test_loaded",
    "item_errors": "test_loaded",
    "library": "test_loaded engine/test_initial",
    "links": "test_peers",
    "losses/*": "losses/test_loss_goldens losses/test_loss_properties",
    "losses/common/*": "losses/test_loss_properties losses/test_losses",
    "malloc": "engine/test_host",
    "maps": "saliency/test_explanation",
    "models/common/*": "models/test_towers models/test_conv_towers",
    "models/released": "engine/test_architecture",
    "models/image/*": "models/test_towers models/test_conv_towers",
    "models/multimodal/*": "models/test_memory_network",
    "models/text/*": "models/test_towers models/test_bert",
    "multihost": "test_peers",
    "optim/*": "optim/test_optimizers models/common/test_frozen",
    "option_checks": "models/test_towers models/test_two_tower",
    "param_paths": "models/common/test_frozen",
    "preempt": "engine/test_resume",
    "probabilities": "test_loaded",
    "pulse": "test_peers",
    "registry": "test_config scenarios/test_config_files",
    "run_command": "scenarios/test_commands",
    "text_batches": "test_encoder test_loaded",
    "user_files": "scenarios/test_config_files studies/test_study_file",
    "report_parts/*": "test_report",
    "report_parts/*_cards": "report_parts/test_cards",
    "search_index/*": "test_search search_index/test_index_job",
    "studies/best_config": "studies/test_study_results",
    "studies/run_*": "scenarios/test_shared_study",
    "studies/study_cells": "studies/test_study_file",
    "studies/study_folder": "test_study",
    "studies/study_jobs": "studies/test_study_worker studies/test_study_results",
    "studies/study_plan": "studies/test_study_results",
    "studies/study_tables": "studies/test_study_results",
    "studies/tuning_space": "studies/test_study_file",
    "study_statistics/seed_table": "study_statistics/test_seed_spread",
    "saliency/dense": "saliency/test_image_maps",
    "saliency/relevance": "parity/test_map_parity saliency/test_image_maps",
    "saliency/sheets": "saliency/test_explanation",
    "testing/*": "testing/test_contracts",
    "train": "scenarios/test_commands",
    "types": "engine/test_step",
    "weights/beside/*": "weights/test_weights weights/test_weight_mistakes",
    "weights/formats/*": "weights/test_weights weights/test_read_tower",
    "weights/tensors/hub": "weights/test_weights",
    "weights/tensors/resize_positions": "weights/test_weights",
    "weights/tensors/*": "weights/tensors/test_tensor_files",
    "weights/*": "weights/test_weights weights/test_read_tower",
}


def level(part: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if part in names)


def imports(path: pathlib.Path):
    """Every dotted name that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def folder_of(name: str) -> str:
    """The folder of an imported module, "" at the top; name: without `clipjax.`."""
    path = PACKAGE.joinpath(*name.split("."))
    while not (path.is_dir() or path.with_suffix(".py").is_file()):
        path = path.parent
    place = path if path.is_dir() else path.parent
    return place.relative_to(PACKAGE).as_posix().removeprefix(".")


def test_imports_point_down():
    wrong = []
    for path in files():
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "clipjax" and parts[1:] and level(parts[1]) < level(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_folders_import_what_their_job_needs():
    there = {path.parent.relative_to(PACKAGE).as_posix() for path in files()}
    assert FOLDERS.keys() == there - {".", "engine", "testing"}
    wrong = []
    for path in files():
        own = path.parent.relative_to(PACKAGE).as_posix()
        if own not in FOLDERS:
            continue
        for name in imports(path):
            top, _, rest = name.partition(".")
            folder = folder_of(rest) if top == "clipjax" else ""
            if folder and folder != own and folder not in FOLDERS[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_modules_import_each_other():
    depends = collections.defaultdict(set)
    for path in files():
        own = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        for name in imports(path):
            parts = name.split(".")[1:] if name.startswith("clipjax.") else []
            while parts and not PACKAGE.joinpath(*parts).with_suffix(".py").is_file():
                parts.pop()
            if parts:
                depends[own].add(".".join(parts))
    free: set[str] = set()
    while ready := {
        m for m in depends if m not in free and depends[m] - {m} <= free
    } | {
        m for one in depends.values() for m in one if m not in depends and m not in free
    }:
        free |= ready
    assert depends.keys() <= free


def test_libraries_stay_at_home():
    wrong = []
    for path in files():
        here = path.relative_to(PACKAGE).as_posix()
        for name in imports(path):
            for library, homes in HOMES.items():
                if name == library or name.startswith(f"{library}."):
                    if not any(here.startswith(home) for home in homes):
                        wrong.append(f"{here} imports {name}")
    assert not wrong


def test_no_file_is_long():
    lengths = {p.name: len(p.read_text().splitlines()) for p in files()}
    assert not [name for name, length in lengths.items() if length > 410]


def test_no_two_modules_share_a_name():
    counts = collections.Counter(
        path.stem for path in files() if path.stem != "__main__"
    )
    assert [name for name, count in counts.items() if count > 1] == []


def test_every_module_has_its_tests():
    alone, used = [], set()
    for path in files():
        module = path.relative_to(PACKAGE).with_suffix("")
        if (TESTS / module.parent / f"test_{module.name}.py").is_file():
            continue
        # A pattern's * ends at the folder, as in a shell.
        found = [
            pattern
            for pattern in TESTED_BY
            if fnmatch.fnmatch(module.as_posix(), pattern)
            and pattern.count("/") == module.as_posix().count("/")
        ]
        used.update(found)
        if not found:
            alone.append(module.as_posix())
    assert alone == []
    assert TESTED_BY.keys() - used == set()
    named = {test for tests in TESTED_BY.values() for test in tests.split()}
    assert [
        test for test in sorted(named) if not (TESTS / f"{test}.py").is_file()
    ] == []


def test_importing_clipjax_is_cheap():
    code = (
        "import sys, clipjax; print([m for m in ('jax', 'flax') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"
