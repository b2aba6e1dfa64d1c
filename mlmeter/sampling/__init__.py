"""The only thread of mlmeter and what it reads: sources, when to poll them, reads at the edges of windows."""
