"""A long session in chapters: what is older than the memory's limits is kept as sums."""
