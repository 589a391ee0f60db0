"""Finds the class lists of public data sets by the data sets' names.

tensorflow-datasets ships them: as label files, or in the source of its builders. They
are read as text, so neither TensorFlow nor a builder is imported. OURS has the lists
that it lacks because it reads them from the downloaded data.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib.util
import pathlib
import re

from clipjax.types import UserError

PACKAGE = "tensorflow_datasets"
IMAGENET = "imagenet2012"
IMAGENET_NAMES = ("datasets/siscore/labels.py", "IMAGENET_LABELS_LIST")
# Two classes each would have the name of the first: no text could tell them apart.
APART = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n03710721": "tank suit",
}
ALIASES = {
    **dict.fromkeys(("imagenet", "imagenet1k", "ilsvrc2012"), IMAGENET),
    "flowers102": "oxford_flowers102",
    "pets": "oxford_iiit_pet",
    "oxfordpets": "oxford_iiit_pet",
    "inaturalist2018": "i_naturalist2018",
    "inaturalist2021": "i_naturalist2021",
}
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_STL10 = "airplane bird car cat deer dog horse monkey ship truck"
_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy "
    "bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock "
    "cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
    "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange "
    "orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
    "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf "
    "woman worm"
)
# In the order of the data sets' own numbers.
OURS = {
    **dict.fromkeys(("cifar10", "cifar10_1", "cifar10_corrupted"), _CIFAR10),
    "cifar100": _CIFAR100,
    "stl10": _STL10,
}


@dataclasses.dataclass(frozen=True)
class KnownClasses:
    """A data set's classes in the order of its numbers.

    labels: as the data set writes them, often its folders' names. names: for people.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def find(dataset: str) -> KnownClasses:
    """Returns the classes of a data set by its name in tensorflow-datasets.

    "-" and "_" in the name do not count; a config or version after "/" or ":" is
    dropped. Raises UserError if no list is known.
    """
    wanted = re.split("[/:]", dataset.strip(), maxsplit=1)[0]
    known = {_bare(name): name for name in (*_builders(), *OURS)}
    known |= {_bare(name): target for name, target in ALIASES.items()}
    name = known.get(_bare(wanted))
    if name is None:
        near = difflib.get_close_matches(wanted, sorted(set(known.values())), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"class_names={dataset}: tensorflow-datasets has no data set of this "
            f"name.{hint} Use auto, raw, or a file of names (docs/data.md)"
        )
    labels = tuple(OURS[name].split()) if name in OURS else _shipped(name)
    if not labels:
        raise UserError(
            f"class_names={dataset}: tensorflow-datasets ships no class names of "
            f"{name}; write them into a file (docs/data.md)"
        )
    english = imagenet_names()
    if set(labels) <= english.keys():
        return KnownClasses(labels, tuple(english[label] for label in labels))
    return KnownClasses(labels, tuple(in_words(_apart(label)) for label in labels))


@functools.cache
def imagenet_names() -> dict[str, str]:
    """WordNet id -> name of ImageNet's 1000 classes, each name once."""
    ids = _label_file("datasets/imagenet2012/labels.txt")
    place, constant = IMAGENET_NAMES
    tree = ast.parse((_root() / place).read_text(encoding="utf-8"))
    synonyms = _Reader(tree).strings(ast.Name(constant))
    if len(ids) != len(synonyms):
        raise UserError(f"{_root() / place}: it names {len(synonyms)} classes")
    names = {i: words.partition(",")[0] for i, words in zip(ids, synonyms, strict=True)}
    return names | APART


def in_words(label: str) -> str:
    """A label with spaces for `_` and `-`, and without SUN397's and Places' letter
    folders ("/a/apartment_building/outdoor"); one with spaces stays as it is.
    """
    if " " in label.strip():
        return label
    words = re.sub(r"^/[a-z]/", "", label)
    if words != label:
        words = words.replace("/", " ")
    return " ".join(re.split("[_-]+", words.strip("_-"))) or label


def _apart(label: str) -> str:
    """EuroSAT's AnnualCrop and UCF101's ApplyLipstick with `_` between the words."""
    camel = re.fullmatch("(?:[A-Z][a-z]+){2,}", label)
    return re.sub("(?<!^)([A-Z])", r"_\1", label) if camel else label


def _bare(name: str) -> str:
    return re.sub("[-_ ]", "", name.lower())


@functools.cache
def _root() -> pathlib.Path:
    """tensorflow-datasets' folder, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.origin:
        raise UserError(
            "class_names: tensorflow-datasets, whose class lists are used, is not "
            "installed: pip install tensorflow-datasets"
        )
    return pathlib.Path(spec.origin).parent


@functools.cache
def _builders() -> dict[str, tuple[pathlib.Path, str]]:
    """Data set -> the file of its builder, and the class in it."""
    root, found = _root(), {}
    for place in root.glob("datasets/*/*_dataset_builder.py"):
        found[place.parent.name] = (place, "Builder")
    for folder in ("image_classification", "video"):
        for place in (*root.glob(f"{folder}/*.py"), *root.glob(f"{folder}/*/*.py")):
            if place.name.endswith("_test.py"):
                continue
            text = place.read_text(encoding="utf-8")
            for kind in re.findall(r"^class (\w+)\((?!.*Config\b)", text, re.MULTILINE):
                found.setdefault(_snake(kind), (place, kind))
    return found


def _snake(kind: str) -> str:
    """A builder's class as its data set's name, as tensorflow-datasets makes it."""
    partly = re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)
    return re.sub("([a-z0-9])([A-Z])", r"\1_\2", partly).lower()


def _shipped(name: str) -> tuple[str, ...]:
    """A data set's labels as its builder has them; () if it has only their number."""
    place, kind = _builders()[name]
    tree = ast.parse(place.read_text(encoding="utf-8"))
    builder = next(
        (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind), tree
    )
    reader = _Reader(tree)
    for value in _label_features(builder):
        for keyword in value.keywords:
            if keyword.arg == "names" and (labels := reader.strings(keyword.value)):
                return labels
            if keyword.arg == "names_file":
                path = reader.path(keyword.value)
                if path and (_root() / path).is_file():
                    return _label_file(path)
    return ()


def _label_features(builder: ast.AST) -> list[ast.Call]:
    """The ClassLabel(...) of the feature "label", and of no other feature."""
    return [
        value
        for node in ast.walk(builder)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant)
        and key.value == "label"
        and isinstance(value, ast.Call)
        and getattr(value.func, "attr", "") == "ClassLabel"
    ]


def _label_file(path: str) -> tuple[str, ...]:
    """Reads a label file as tensorflow-datasets does: blank lines do not count."""
    lines = (_root() / path).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


class _Reader:
    """Finds what an expression in a builder's source means, without running it."""

    def __init__(self, tree: ast.Module):
        self._assigned = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def strings(self, value: ast.expr) -> tuple[str, ...]:
        """The texts of a list; () if it is not written out."""
        try:
            texts = ast.literal_eval(self._meant(value))
        except ValueError:
            return ()
        listed = isinstance(texts, (list, tuple))
        return tuple(texts) if listed and all(isinstance(t, str) for t in texts) else ()

    def path(self, value: ast.expr) -> str:
        """The label file in the package that an expression names; "" if unclear."""
        value = self._meant(value)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
        if not isinstance(value, ast.Call):
            return ""
        called = ast.unparse(value.func)
        if called.endswith("imagenet_common.label_names_file"):
            return "datasets/imagenet2012/labels.txt"
        if called.endswith(("tfds_path", "path.join")):
            return "/".join(filter(None, map(self.path, value.args)))
        return ""

    def _meant(self, value: ast.expr) -> ast.expr:
        for _ in range(8):  # a name may stand for a name
            if not isinstance(value, ast.Name) or value.id not in self._assigned:
                return value
            value = self._assigned[value.id]
        return value
