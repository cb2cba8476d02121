"""The verbs that need no Trainer and bring models and data together."""
