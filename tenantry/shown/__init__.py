"""Output for people: metadata, plots, pictures, and the actions of operators."""
