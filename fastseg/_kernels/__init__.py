"""Compiled loops: arrays and scalars in, arrays out; they never validate or raise."""
