"""``python -m grafter`` is the command ``grafter``."""

from grafter.cli import main

if __name__ == "__main__":
    main()
