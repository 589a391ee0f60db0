"""Files beside released weights: image transforms and tokenizers."""
