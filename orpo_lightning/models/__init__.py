"""Language models as functions from a packed batch to log-probabilities."""
