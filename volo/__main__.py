"""`python -m volo`, and `torchrun -m volo train`."""

from volo.cli.main import main

if __name__ == "__main__":
    main()
