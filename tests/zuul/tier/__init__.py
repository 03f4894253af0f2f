"""This package owns the Zuul tier: builds made by Zuul's own code on pods of the test cluster. `../run` starts it."""
