"""Charts that the commands draw."""
