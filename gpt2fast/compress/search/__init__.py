"""The search for a recipe within a budget: candidates, their evaluation, verification."""
