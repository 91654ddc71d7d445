"""Everything that talks to Google: the HTTP client and the credentials."""
