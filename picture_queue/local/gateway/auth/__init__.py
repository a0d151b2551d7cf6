"""Auth: e-mail and password accounts, sessions with rotating refresh tokens, user JWTs."""
