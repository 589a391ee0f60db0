"""Maps of where in an image, and at which words, a model looks."""
