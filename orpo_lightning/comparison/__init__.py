"""Several runs side by side: what is the same, what differs, and whether the difference is one."""
