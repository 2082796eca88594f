"""Options of this package, found with ``hydra.searchpath=[pkg://own_sr.conf]``."""
