"""Recalls of given embeddings by CLIP_benchmark and open_clip, under our names."""

from __future__ import annotations

import torch
from gallery_tools import Gallery

KS = (1, 5, 10)
SIDES = {"text_retrieval": "image_to_text", "image_retrieval": "text_to_image"}


class _Given(torch.nn.Module):
    """A model whose inputs are its embeddings."""

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images

    encode_text = encode_image


def by_clip_benchmark(gallery: Gallery) -> dict[str, float]:
    """Its `evaluate` of retrieval, in batches of seven images."""
    from clip_benchmark.metrics import zeroshot_retrieval

    images = torch.tensor(gallery.images)
    captions = [
        [str(j) for j in (gallery.owner == i).nonzero()[0]] for i in range(len(images))
    ]
    batches = [
        (images[i : i + 7], captions[i : i + 7]) for i in range(0, len(images), 7)
    ]
    texts = torch.tensor(gallery.texts)

    def tokenizer(words: list[str]) -> torch.Tensor:
        return texts[[int(word) for word in words]]

    found = zeroshot_retrieval.evaluate(
        _Given(), batches, tokenizer, "cpu", amp=False, recall_k_list=list(KS)
    )
    return {
        f"{ours}_recall@{k}": found[f"{theirs}_recall@{k}"]
        for theirs, ours in SIDES.items()
        for k in KS
    }


def by_open_clip(gallery: Gallery) -> dict[str, float]:
    """Its metrics in training, which take one caption per image."""
    from open_clip_train.train import get_clip_metrics

    assert (gallery.owner == range(len(gallery.images))).all()
    images, texts = torch.tensor(gallery.images), torch.tensor(gallery.texts)
    found = get_clip_metrics(images, texts, torch.tensor(100.0))
    return {
        name.replace("_R@", "_recall@"): float(value) for name, value in found.items()
    }
