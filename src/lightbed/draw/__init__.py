"""Pictures: pure functions from data to a figure, or from an image and a prediction to an image."""
