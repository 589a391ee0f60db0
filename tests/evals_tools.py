"""A model that looks embeddings up, so that rankings are known beforehand."""

import numpy as np

from clipjax.encoder import Encoder
from clipjax.evals.common.inputs import Inputs
from clipjax.types import BadExample, Example, UserError

BROKEN = b"broken"


class Table:
    """A model that looks embeddings up: of images by pixel, of texts by token."""

    image_output = "image_embed"

    def encode_image(self, variables, image):
        number = image[:, 0, 0, 0].astype("int32") * 256 + image[:, 0, 0, 1]
        return {"image_embed": variables["params"]["image"][number]}

    def encode_text(self, variables, text, mask):
        return {"text_embed": variables["params"]["text"][text[:, 0]]}


class PooledTable(Table):
    """And gives pooled features, the embeddings' opposite."""

    pooled_outputs = {"image": "image_pooled", "text": "text_pooled"}

    def encode_image(self, variables, image):
        embed = super().encode_image(variables, image)["image_embed"]
        return {"image_embed": embed, "image_pooled": -embed}

    def encode_text(self, variables, text, mask):
        embed = super().encode_text(variables, text, mask)["text_embed"]
        return {"text_embed": embed, "text_pooled": -embed}


class Words:
    """A tokenizer that numbers the texts it knows; 0 is the empty one."""

    def __init__(self, texts):
        self.numbers = {"": 0} | {text: i + 1 for i, text in enumerate(texts)}

    def __call__(self, texts):
        ids = np.array([[self.numbers[text]] for text in texts], np.int32)
        return ids, np.ones_like(ids, bool)


class Data:
    """A source over a list of examples, counting how often each is read."""

    def __init__(self, examples, class_names=None, templates=None):
        self.examples = examples
        self.caption_counts = np.array([len(e.captions) for e in examples], np.int32)
        self.max_captions = int(self.caption_counts.max(initial=0))
        self.class_names = class_names or {}
        self.templates = templates or {}
        self.reads = []

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.examples[index]


def captioned(images, owner, captions, broken=()):
    """Examples of the images of these numbers; captions[j] belongs to image owner[j].

    broken: the numbers of those that cannot be decoded.
    """
    return [
        Example(
            BROKEN if i in broken else pixels(i),
            [captions[j] for j in np.flatnonzero(np.equal(owner, i))],
            key=f"image {i}",
        )
        for i in images
    ]


def labelled_data(labels, first, names, key):
    """A source of an image per label, of the pixels `first` on; None: a broken one."""
    return Data(
        [
            Example(
                BROKEN if label is None else pixels(first + i),
                [],
                {"class": label or 0},
                f"{key} {i}",
            )
            for i, label in enumerate(labels)
        ],
        {"class": names},
    )


def labelled_inputs(test, train, names=("disc", "star"), train_names=None, **options):
    """Inputs of images with the labels `test`, and of a split "train" of others.

    Images are numbered through, the training ones last: rows of a table of embeddings.
    """
    source = labelled_data(test, 0, names, "test")
    other = labelled_data(train, len(test), train_names or names, "train")

    def open_split(split):
        if split != "train":
            raise UserError(f"no split {split!r}")
        return other

    encoder = table_encoder([], options.pop("model", None))
    return Inputs(encoder, source, open_split=open_split, **options)


def image_table(*rows):
    """The variables of a table of image embeddings, from groups of rows."""
    return {"params": {"image": np.concatenate(rows).astype(np.float32)}}


def variables(images, texts):
    """The variables of a table of embeddings; texts: from token 1 on, 0's are zeros."""
    images, texts = (np.asarray(x, np.float32) for x in (images, texts))
    texts = np.concatenate([np.zeros_like(texts[:1]), texts])
    return {"params": {"image": images, "text": texts}}


def crop(image):
    if isinstance(image, bytes):
        raise BadExample("cannot be decoded")
    return image[:1, :1]


def pixels(number):
    return np.array([[[*divmod(number, 256), 0]]], np.uint8)


def table_encoder(texts, model=None, **options):
    options = {"batch_size": 4} | options
    return Encoder(model or Table(), Words(texts), crop, **options)


def values(result):
    """Name -> value."""
    return {name: metric.value for name, metric in result.metrics.items()}


def chances(result):
    """Name -> chance, of the metrics that have one."""
    return {
        name: metric.chance
        for name, metric in result.metrics.items()
        if metric.chance is not None
    }
