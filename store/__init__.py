"""Results out: durable, atomic, accounted for. Knows files and numpy, nothing of models."""
