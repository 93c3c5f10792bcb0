"""Sweeps: many short runs of one config, by Ray Tune. Only `tuning`, `trial` and `search` import Ray."""
