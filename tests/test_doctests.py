"""Examples in the docstrings of what README, docs and examples name: they run."""

import ast
import doctest
import importlib
import inspect
import pathlib
import re
import tarfile
import time

import numpy as np
import pytest

import clipjax
from clipjax import (
    class_recalls,
    identity,
    library,
    loaded,
    registry,
    reliability,
    results,
    testing,
)
from clipjax.data.class_lists import Classes
from clipjax.encoder import Encoder
from clipjax.run_record import status
from clipjax.types import EvalResult, Metric
from run_tools import one_device

ROOT = pathlib.Path(__file__).parents[1]
SAVED_RUN = ROOT / "tests" / "scenarios" / "goldens" / "saved_run.tar.gz"
ROWS = {"key": ["a"], "rank": [1]}
# Public names without an example, and why.
WITHOUT = {
    "clipjax.evaluate_model": "takes seconds; see tests/test_whole_runs.py",
    "clipjax.train_model": "takes seconds; see tests/test_whole_runs.py",
}


def snippets():
    """The Python of README, docs, examples and configs."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        yield from re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        names = re.findall(r"`(clipjax\.[\w.]+)[`(]", text)
        names = [name for name in names if not is_module(name)]
        yield "".join(f"import clipjax; {name}\n" for name in names)
    for folder in ("examples", "configs"):
        for file in (ROOT / folder).glob("*.py"):
            yield file.read_text(encoding="utf-8")


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def named(code):
    """Full names of what a snippet takes from clipjax; of modules, what it calls."""
    tree = ast.parse(code)
    modules = {"clipjax": "clipjax"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("clipjax"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if is_module(name):
                    modules[alias.name] = name
                else:
                    yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in modules:
                yield f"{modules[first]}.{rest}"


def resolved(name):
    """The function or class of a full name; None if it is neither."""
    parts = name.split(".")
    count = max(i for i in range(1, len(parts) + 1) if is_module(".".join(parts[:i])))
    value = importlib.import_module(".".join(parts[:count]))
    for part in parts[count:]:
        value = getattr(value, part, None)
    own = inspect.isfunction(value) or inspect.isclass(value)
    return value if own and value.__module__.startswith("clipjax") else None


def public():
    names = {name for code in snippets() for name in named(code)}
    # What examples take from the models' and tokenizers' workshop is no interface.
    workshop = ("clipjax.models.", "clipjax.data.text.", "clipjax.losses.common.")
    names = {name for name in names if not name.startswith(workshop)}
    names |= {f"clipjax.{name}" for name in clipjax.__all__}
    names |= {f"clipjax.testing.{n}" for n in vars(testing) if n.startswith("check_")}
    names |= {f"clipjax.optim.schedules.{n}" for n in registry.names("schedule")}
    methods = [name for name in vars(clipjax.Loaded) if not name.startswith("_")]
    fields = clipjax.Loaded.__dataclass_fields__
    found = {name: resolved(name) for name in names - WITHOUT.keys()}
    found = {name: value for name, value in found.items() if value is not None}
    for method in methods:
        if method not in fields:
            value = vars(clipjax.Loaded)[method]
            found[f"clipjax.Loaded.{method}"] = getattr(value, "fget", value)
    return found


PUBLIC = public()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What examples may use beside their module's names."""
    folder = tmp_path_factory.mktemp("doctests")
    with tarfile.open(SAVED_RUN) as file:
        file.extractall(folder / "runs", filter="data")
    (folder / "runs" / "run").rename(folder / "runs" / "quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = EvalResult({"top1": Metric(0.5)}, "top1", "1 image", rows=ROWS)
        place = pathlib.Path("runs/quickstart/evaluations/2")
        results.save(place, {"": ({"retrieval": found}, {"step": 2})})
        ended = status.Status("finished", step=2, total_steps=2)
        status.write(pathlib.Path("runs/quickstart"), ended, sync=False)
        for name, values in {"a": [2.0, 3.0], "b": [1.0, 3.0]}.items():
            place = pathlib.Path(f"runs/{name}/evaluations/2")
            rows = {"key": ["1.png", "2.png"], "loss": np.array(values)}
            loss = {"loss": Metric(sum(values) / 2, higher_is_better=False)}
            found = EvalResult(loss, "loss", "2 images", rows=rows)
            results.save(place, {"": ({"mine": found}, {"step": 2})})
        clip = clipjax.load("runs/quickstart", match=cutoff())
        image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
        clip.encode_image([image]), clip.encode_text(["a dog"])  # compiled here
        with one_device():
            options = {"eval_size": 4, "resolution": 16}
            clipjax.embed_data(
                "runs/quickstart",
                "embedded",
                batch_size=4,
                data="scenes",
                data_options=options,
            )
        yield {
            "clipjax": clipjax,
            "results": results,
            "class_recalls": class_recalls,
            "reliability": reliability,
            "status": status,
            "np": np,
            "clip": clip,
            "image": image,
            "classifier": classifier(clip),
        }


def cutoff():
    """The folder of a match cut-off of the run."""
    parts = library.read("runs/quickstart", "best", True)
    own = parts.config, parts.model, parts.variables, parts.tokenizer
    found = {"slope": Metric(20.0), "intercept": Metric(-5.0)}
    found = EvalResult(found, "slope", "8 images")
    meta = {"evals": {"match": {"name": "match"}}}
    meta["identity"] = identity.identity(*own)
    place = pathlib.Path("cutoff")
    return results.save(place, {"": ({"match": found}, meta)})[0]


def classifier(clip):
    """A model of two classes that takes every image for a dog: logits log 3 and 0."""

    class Dogs:
        image_output = "logits"

        def encode_image(self, variables, image):
            return {"logits": np.log([[3.0, 1.0]]).repeat(len(image), 0)}

    classes = Classes(("dog", "cat"))
    encoder = Encoder(Dogs(), None, clip.preprocess, batch_size=1, classes=classes)
    return loaded.Loaded(clip.config, Dogs(), {}, None, clip.preprocess, encoder, 0)


def examples(name, value, names):
    scope = {**vars(inspect.getmodule(value)), **names}
    finder = doctest.DocTestFinder(recurse=False)
    return [test for test in finder.find(value, name, globs=scope) if test.examples]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_example(name, names):
    tests = examples(name, PUBLIC[name], names)
    assert tests, f"{name} is public: give its docstring a short example"
    printed = []
    begin = time.process_time()
    for test in tests:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=printed.append)
    assert not printed, "".join(printed)
    assert time.process_time() - begin < 5  # on a loaded machine; a tenth elsewhere


def test_the_interface_is_found():
    """The names above come from the pages, so a parser that reads none would pass."""
    expected = "load testing.check_loss config.base types.Metric types.EvalResult"
    expected += " optim.schedules.cosine Loaded.encode_text registry.load"
    assert {f"clipjax.{name}" for name in expected.split()} <= PUBLIC.keys()
    for name in WITHOUT:
        assert resolved(name) is not None
