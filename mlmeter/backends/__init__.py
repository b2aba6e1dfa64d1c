"""Sources of readings: one file each for everything that touches hardware."""
