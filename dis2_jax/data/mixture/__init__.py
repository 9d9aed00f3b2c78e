"""Several datasets as one: their modalities together, their classes under one legend."""
