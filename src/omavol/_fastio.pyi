"""The loops that move data: serve and copy. Data never passes through Python; these are the handles."""
