"""From files of preference pairs to planned, packed micro-batches."""
