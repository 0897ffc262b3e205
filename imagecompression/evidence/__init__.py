"""What a file and its pixels show about how a picture was compressed, for a person to check."""
