"""`python -m bnfold ...`: the command line, where the console script is not on the path."""

from bnfold.commands import main

if __name__ == "__main__":
    main()
