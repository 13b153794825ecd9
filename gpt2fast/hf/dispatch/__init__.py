"""Whether a call of ``forward`` runs on the backend or in transformers."""
