"""The Lightning modules."""
