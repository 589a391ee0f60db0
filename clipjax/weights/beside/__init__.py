"""What lies beside released tensors: image transforms and tokenizers."""
