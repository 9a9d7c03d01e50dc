"""`python cli.py ...` from a checkout: bnfold's own command line."""

from bnfold.commands import main

if __name__ == "__main__":
    main()
