"""A network, a tail, a loss, a dataset, a schedule and a callback of one's own, for sr_lab."""
