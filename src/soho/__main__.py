"""`python -m soho`, which is what torchrun starts."""

from soho.cli import main

if __name__ == "__main__":
    main()
