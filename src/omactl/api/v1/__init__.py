"""The handlers of /api/v1: parse, call, answer."""
