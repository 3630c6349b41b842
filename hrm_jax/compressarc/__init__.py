"""CompressARC (arXiv 2512.06104): one small network for each ARC task."""
