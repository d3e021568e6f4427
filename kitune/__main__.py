"""`python -m kitune`, as torchrun starts it."""

from kitune.cli import main

if __name__ == "__main__":
    main()
