"""The run folder: its layout, its record, its checkpoint file."""
