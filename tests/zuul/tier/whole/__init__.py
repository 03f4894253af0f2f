"""Zuul and nodepool as services, each its own process with ZooKeeper and PostgreSQL, for the scenario `whole_path`."""
