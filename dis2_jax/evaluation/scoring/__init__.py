"""Score maps against references: counts that add up, measures that follow from them."""
