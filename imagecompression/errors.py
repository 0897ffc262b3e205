"""The base of all errors whose message is meant for the user."""


class ImageCompressionError(ValueError):
    """Something given is wrong; the message says what was received, what is allowed, what to do."""
