"""Images: decoding, evaluation transforms, training transforms."""
