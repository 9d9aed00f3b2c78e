"""Published PyTorch weights <-> our variables. PyTorch is imported only to read or write its own files."""
