"""Data sets: one thin file each, all built on `DataModule`."""
