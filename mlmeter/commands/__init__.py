"""Commands of the command line, one file each; `mlmeter.cli` registers them."""
