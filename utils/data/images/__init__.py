"""Folders of images: listing them, reading them."""
