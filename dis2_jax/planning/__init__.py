"""Plans: the training step compiled for machines that are not there, and how long it would take on them."""
