"""Several evaluated runs side by side: read and group them, statistics, tables."""
