"""Who may do what: tokens hashed at rest, sessions of the page, one-time links. Access cannot be switched off."""
