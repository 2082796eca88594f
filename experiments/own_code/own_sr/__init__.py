"""A network, a tail, a loss, a dataset, a schedule and a callback of your own, for sr_lab."""
