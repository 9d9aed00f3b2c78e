"""Results as aligned text, Markdown and CSV."""
