"""What commands share, and what they do once the command line has been read; imports any room, and no command."""
