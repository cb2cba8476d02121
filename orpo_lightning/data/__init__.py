"""From files of preference data to planned, packed micro-batches."""
