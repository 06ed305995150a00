"""What sources say, in one language: the normaliser of every agent's vocabulary (BEHAVIOUR.md section 8)."""
