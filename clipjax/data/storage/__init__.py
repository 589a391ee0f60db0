"""Files, folders and object stores: what is read, before it is an example."""
