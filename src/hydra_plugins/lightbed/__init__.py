"""Lightbed's plugins for Hydra, which finds them in this namespace only; what they do is in `lightbed.sweeps`."""
