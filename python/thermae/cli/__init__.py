"""The command line: ``thermae <command>``.

Each file is one family of commands; none holds logic of the store's.
"""

from thermae.cli.root import main

__all__ = ["main"]
