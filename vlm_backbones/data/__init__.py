"""Training data: conversations, chat format, packing, order, feature cache; import from the modules."""
