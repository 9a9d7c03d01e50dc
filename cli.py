"""`python cli.py ...` from a checkout: bnfold's own command line."""

from bnfold.commands import script

if __name__ == "__main__":
    script()
