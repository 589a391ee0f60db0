"""Pictures: decoding, evaluation pixels, training pixels."""
