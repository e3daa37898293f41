"""`python -m mmsearch` is `mmsearch`."""

from mmsearch.cli.main import main

if __name__ == "__main__":
    main()
