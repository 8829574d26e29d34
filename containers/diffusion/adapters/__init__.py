"""A tenant's model: a LoRA, its file, and its weights on the shared base."""
