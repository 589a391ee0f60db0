"""Small data sets that TensorFlow Datasets prepares."""

import pytest

tfds = pytest.importorskip("tensorflow_datasets")
registered = pytest.importorskip("tensorflow_datasets.core.registered")


def prepare(base, name, features, examples, **options):
    """Prepares {split: examples} as a data set of TFDS; returns its folder."""

    def info(self):
        made = tfds.features.FeaturesDict(features(tfds.features))
        return tfds.core.DatasetInfo(builder=self, features=made)

    def generators(self, manager):
        return {split: enumerate(found) for split, found in examples.items()}

    # Two tests may prepare one name; it is read from its files.
    with registered.skip_registration():
        kind = type(
            name,
            (tfds.core.GeneratorBasedBuilder,),
            {
                "__module__": __name__,
                "VERSION": tfds.core.Version("1.0.0"),
                "_info": info,
                "_split_generators": generators,
                "_generate_examples": lambda self: None,
                **options,
            },
        )
    builder = kind(data_dir=str(base), file_format="array_record")
    builder.download_and_prepare()
    return builder
