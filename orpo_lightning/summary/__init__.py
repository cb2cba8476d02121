"""What a run leaves behind for a reader: per-pair values, intervals, answers, figures, and the text around them."""
