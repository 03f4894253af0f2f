"""Package of the Zuul tier: builds run by Zuul's own executor code on pods of the test cluster. `../run` starts it."""
