"""`python -m madx`: the command `madx`."""

from madx.cli import main

if __name__ == "__main__":
    main()
