"""Texts that are made from the rows of the suite: tables, plots, goals. `../report` calls the package."""
