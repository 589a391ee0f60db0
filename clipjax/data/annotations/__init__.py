"""What says which captions and classes an image has: tables, JSON, files beside it."""
