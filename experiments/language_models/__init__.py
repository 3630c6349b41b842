"""How language models are asked."""
