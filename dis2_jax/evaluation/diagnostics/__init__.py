"""How much of a missing modality the compensation features bring back."""
