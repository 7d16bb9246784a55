"""The machine learning: models, batches, objectives, the training loop, generation. Imported by workers and plugins only."""
