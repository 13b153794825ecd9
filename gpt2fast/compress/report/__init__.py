"""What is written at the end: report, model card, Pareto plot, and the artifact in its place."""
