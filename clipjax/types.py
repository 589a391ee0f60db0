"""The contracts that keep towers, losses, sources and evaluators interchangeable.

`clipjax.testing` holds a component to them.

Dimensions in shape comments: b batch, h w c image, l text length, e embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from clipjax.eval_types import Announced as Announced
from clipjax.eval_types import EvalResult as EvalResult
from clipjax.eval_types import Metric as Metric
from clipjax.eval_types import Rows as Rows

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh
    from jax.typing import DTypeLike
    from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Shaped

    Batch = Mapping[str, jax.Array]  # a HostBatch on the devices
    Outputs = dict[str, jax.Array]

Tree = Mapping[str, Any]  # nested dicts of arrays
Variables = Tree  # {"params": tree, and "batch_stats": tree if any}
HostBatch = Mapping[str, np.ndarray]  # the keys are listed at `BATCH_KEYS`
Metrics = dict[str, Any]
Config = Any  # an ml_collections.ConfigDict, whose keys no type checker knows

BATCH_KEYS = {
    "image": "uint8 [b h w 3], normalised on the device by the model",
    "text": "int32 [b l], token ids, padded with the tokenizer's pad_id",
    "text_mask": "bool [b l], true on tokens, false on padding",
    "image_id": "int32 [b], the example's index in its source",
    "text_id": "int32 [b], image_id * max_captions + caption index",
    "valid": "bool [b], false where a row is no example; training has none of these",
    "replaced": "bool [b], true where a broken example was replaced by another",
    "label": "int32 [b], the class, -1 without one",
}
# In a run of several processes the loop adds "stop", int32 [b]: the number of the
# signal that a row's process received, 0 without one. So all stop at the same step.

# Keys of other modalities (Example.others):
OTHER_KEYS = {
    "audio": "float32 [b f t], a spectrogram",
    "audio_present": "bool [b], false where an example lacks it and `audio` is zeros",
}

# Outputs of a model that do not have a leading batch dimension.
GLOBAL_OUTPUTS = ("logit_scale", "logit_bias")


def __getattr__(name: str) -> Any:
    """Batch and Outputs, which import jax; importing clipjax alone does not."""
    if name not in ("Batch", "Outputs"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import jax

    return Mapping[str, jax.Array] if name == "Batch" else dict[str, jax.Array]


class UserError(Exception):
    """A mistake the user can mend: one line naming the value and the fix (exit 2).

    >>> clipjax.load("runs/nowhere")
    Traceback (most recent call last):
    clipjax.types.UserError: ...
    """


class MissingData(UserError):
    """The config names data that do not exist."""


class BadExample(Exception):
    """One example cannot be used.

    reason: why. key: the example's key, "" if unknown.

    >>> print(BadExample("cannot be decoded", key="train-00001.tar:000123"))
    train-00001.tar:000123: cannot be decoded
    """

    def __init__(self, reason: str, key: str = ""):
        super().__init__(reason, key)
        self.reason = reason
        self.key = key

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.key else self.reason


@dataclasses.dataclass(frozen=True)
class Example:
    """One distinct image with its captions and labels.

    image: encoded bytes (JPEG, PNG, WebP), or uint8 [h w 3].
    captions: zero or more strings.
    labels: class index per label set, e.g. {"class": 3}; keys are those of the
      source's `class_names`.
    key: where it comes from ("train-00001.tar:000123"), for messages and rows of
      evaluators; another for each example of a source.
    others: arrays of other modalities, as they are to be in a batch ("audio"); the same
      names, shapes and types in all examples of a source.

    >>> Example(image, captions=["a dog"], labels={"class": 3}, key="1.png").labels
    {'class': 3}
    """

    image: bytes | np.ndarray
    captions: Sequence[str] = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    key: str = ""
    others: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """`make(split, *, options) -> Source`: random access to examples; picklable, and
    read by several threads at once.

    max_captions: the largest caption count of any example (0 without captions).
    caption_counts: int32 [len], captions of each example, known without decoding.
    class_names: label set -> names in index order; empty without labels.
    templates: label set -> prompt templates with one `{}`; may lack a set.

    A source may also have `problems`: what it left out or could not use, a text each,
    for `clipjax.prepare` and warnings; `captions_of(index)` and `key_of(index)`: an
    example's captions, and its key, without its image; and `class_ids`: label set ->
    what tells its classes apart if two have one name, such as their folders. One of
    pairs of images, as Winoground has, has `pairs`, a sequence of
    data/annotations/image_pairs.py's ImagePair, for evals=pair_choice. One that has
    wrong captions too, as ARO, has `choices`: per example an OwnChoice of
    data/annotations/caption_choices.py, for evals=caption_choice. A source of several
    parts may have `shares`: each part's (examples, weight), by which training draws
    from them.
    """

    max_captions: int
    caption_counts: np.ndarray
    class_names: Mapping[str, Sequence[str]]
    templates: Mapping[str, Sequence[str]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Raises BadExample if this one example is broken."""
        ...


class Tokenizer(Protocol):
    """`make(captions, state, *, context_length, ...) -> Tokenizer`; picklable.

    captions: a function giving an iterator over training captions, for tokenizers
      that are trained; state: what `state()` returned in an earlier run, or None.
    """

    vocab_size: int
    context_length: int
    pad_id: int

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool, same shape.

        Every row holds at least one valid token; a text that is too long is truncated
        and keeps its end token. Tokens come first, padding after. Raises BadExample for
        a text that is not a str, UserError for one text in place of several.
        """
        ...

    def state(self) -> str | None:
        """What `make` needs to build the same tokenizer without captions.

        A tokenizer that does not know every text may also have `unknown(text)`: a
        sequence of the words or characters that get no id of their own. They are
        counted before training and evaluation; see data/text/lost_texts.py.

        One of our own may also have `released() -> str`, its tokenizer.json for other
        libraries, with which its models can be exported; see packing.as_library.
        """
        ...


class ImageTower(Protocol):
    """`make(image_size, *, options) -> ImageTower`, a Linen module.

    The names of its parameters tell where layer-wise decay, LoRA and freezing apply:

    - blocks are modules block_0, block_1, ... or stage_0/block_0, ...; what lies
      outside them is named as something before (patch_embedding, positions,
      class_token, pre_norm, stem, ...) or after them (post_norm, pool, head, ...): see
      optim/layer_decay.py, which refuses others
    - kernels of attention and MLP are leaves `kernel` of two dimensions in modules qkv,
      query, key_value, out, fc1 or fc2, which LoRA adds to by default
    - inner modules that differ in training take an argument named `train`, which is
      False in those that are frozen

    dtype: the type it computes in, None for its parameters'; parameters stay float32.
    image_size: height and width in pixels.
    """

    dtype: DTypeLike | None
    image_size: int

    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> Outputs:
        """Encodes normalised images.

        Returns "pooled" [b d] and "tokens" [b n d]. In evaluation (`train` False) a row
        does not depend on the others; in training the key "dropout" may be drawn from
        and the collection "batch_stats" be changed.
        """
        ...


class TextTower(Protocol):
    """`make(vocab_size, context_length, *, options) -> TextTower`, as an ImageTower.

    context_length: the most tokens of a text; shorter batches are taken, longer ones
      raise UserError.
    padding_invariant: whether "pooled" is the same with any amount of padding; only
      then data.text_buckets is allowed.
    """

    dtype: DTypeLike | None
    context_length: int
    padding_invariant: bool

    def __call__(
        self, text: Int[Array, "b l"], mask: Bool[Array, "b l"], train: bool
    ) -> Outputs:
        """Encodes ids with their mask, true on tokens.

        Returns "pooled" [b d] and "tokens" [b l d], of which only those under the mask
        mean something. A row without any token gives finite numbers.
        """
        ...


class Model(Protocol):
    """A Linen module with fixed sizes; holds no arrays.

    Its Python module may define TOWERS (the towers that `make` takes, by default
    ("image", "text")) and WORDS (the default components of a config with it).
    """

    @property
    def image_output(self) -> str:
        """The output of encode_image that evaluators and `encode_image` of a loaded
        model take: "image_embed", or "logits" of a classifier.
        """
        ...

    @property
    def pooled_outputs(self) -> Mapping[str, str]:
        """Side ("image", "text"), if it has one -> its output of pooled features,
        float32 [b d]: what the tower gives before its projection.
        """
        ...

    def init(self, key: PRNGKeyArray) -> Variables:
        """Fresh variables (float32); pure, so it can run under jit and eval_shape."""
        ...

    def apply(
        self, variables: Variables, batch: Batch, train: bool, key: PRNGKeyArray | None
    ) -> tuple[Outputs, Tree]:
        """Returns (outputs, new_model_state). key: None only if not in training.

        outputs: image_embed, text_embed float32 [b e] of unit norm, image_features,
        text_features [b e] before normalisation, and the GLOBAL_OUTPUTS it has:
        logit_scale (exponentiated) and logit_bias, float32 scalars; a classifier:
        logits float32 [b c] instead. In evaluation also its `pooled_outputs`.
        new_model_state: the `batch_stats` tree, {} if the model has none.
        """
        ...

    def encode_image(
        self, variables: Variables, image: Shaped[Array, "b h w 3"]
    ) -> Outputs: ...

    def encode_text(
        self, variables: Variables, text: Int[Array, "b l"], mask: Bool[Array, "b l"]
    ) -> Outputs: ...


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """What a loss may know at construction.

    mesh: the devices over which the batch is split, None for one device.

    >>> LossSpec(64, 64, 16, global_batch=8, steps_per_epoch=8, total_steps=80).mesh
    """

    num_images: int
    num_texts: int
    embed_dim: int
    global_batch: int
    steps_per_epoch: int
    total_steps: int
    mesh: Mesh | None = None


class Loss(Protocol):
    """`make(spec, *, options) -> Loss`; pure, over the GLOBAL batch.

    It gets floats of float32 or more, whatever the model computes in; its products of
    embeddings are at the highest precision, and its value depends neither on the order
    of pairs nor on the number of devices.

    Its module may define

    - OUTPUT: the model's output that it needs, "image_embed" (the default) or
      "logits"; an evaluator's module may define it too, also as a tuple of both, if it
      takes either
    - MODEL_OPTIONS: values of the model's options to start with, such as a
      logit_bias_init, unless the config file has its own
    - TRAIN_OPTIONS: the same of the section `train`
    """

    def init(self) -> Tree:
        """The loss state, {} if there is none."""
        ...

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Returns (value, new state, metrics by name, scalars).

        The new state has the shapes and types of the old one. Raises UserError for
        outputs or a batch that it cannot use, such as a single pair.
        """
        ...


class Evaluator(Protocol):
    """`make(inputs, *, options) -> Evaluator`; see evals/common/inputs.py.

    `inputs` gives an evaluator its source's embeddings, captions, labels, keys and, if
    `make` called `inputs.need_pooled`, pooled features on demand, each encoded once for
    all evaluators of that source; and the encoder.

    One that encodes texts may also have `texts()`: what they are ("captions") -> (an
    iterable of them, each a tuple of what is taken together, such as a class's prompts;
    how many there are), to count what the tokenizer loses. One whose work is much more
    than encoding its source may have `cost()`: a text that says so before it starts.
    Any may have `metric_units()`, metric -> unit of all that `run` gives, so that a
    wrong name is refused before training.
    """

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Pure in `variables`; `progress(done, total)` is called now and then."""
        ...


class Summary(Protocol):
    """`make(others, *, options) -> Summary`: an evaluator of others' results, such as
    their mean, in a module with SUMMARY = True. It reads no data.

    others: label -> `Announced` of each evaluator that runs. `make` raises UserError
    for metrics that these will not give. `metric_units()` may be as an Evaluator's.
    """

    def summarise(self, results: Mapping[str, EvalResult]) -> EvalResult:
        """A result made of the others', by their labels."""
        ...
