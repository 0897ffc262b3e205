"""Building datasets of encoded pictures: sources → splits → encoded files → patches."""
