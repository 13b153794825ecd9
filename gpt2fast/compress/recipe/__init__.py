"""Recipes: reading them, the passes they can name, and carrying them out."""
