"""The machine learning: models, batches, objectives, the training loop, generation. For workers and plugins."""
