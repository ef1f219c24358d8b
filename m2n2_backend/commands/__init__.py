"""What each command does; their arguments are in the command line's own module."""
