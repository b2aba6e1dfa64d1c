"""`python -m mlmeter`."""

from mlmeter.cli import main

if __name__ == "__main__":
    main()
