"""When work of windows ran on a GPU: by its own clock, or with the program waiting for it."""
