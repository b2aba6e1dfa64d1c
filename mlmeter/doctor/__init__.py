"""What can be metered on this machine, from where, how well, and what would give more."""
