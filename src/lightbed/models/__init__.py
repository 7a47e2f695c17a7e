"""Networks in plain torch, one paper a file; they know nothing of training."""
