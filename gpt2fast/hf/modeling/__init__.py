"""The subclasses of transformers' classes, and how a model becomes one of them."""
