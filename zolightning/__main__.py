"""Entry point of `python -m zolightning`."""

from zolightning.cli import main

if __name__ == "__main__":
    main()
