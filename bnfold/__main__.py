"""`python -m bnfold ...`: the command line, where the console script is not on the path."""

from bnfold.commands import script

if __name__ == "__main__":
    script()
