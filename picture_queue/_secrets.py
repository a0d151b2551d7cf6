"""Remove secrets from text that is logged or stored."""

import re

#: The text in place of a secret.
REDACTED = "[secret]"

# Secret keys of Supabase, tokens of Replicate, secrets of webhooks, JWTs, and the user and password
# of a URL. Possessive quantifiers keep the time linear in the length of the text.
_SECRET = re.compile(
    r"sb_secret_[\w-]{10,}+|\br8_\w{30,}+|whsec_[\w+/=]{16,}+"
    r"|\beyJ[\w-]{10,}+\.[\w-]{10,}+\.[\w-]{10,}+"
    r"|(?<=://)[^/\s:@]{0,200}+:[^/\s@]{1,1000}+(?=@)"
)


def redact_secrets(text: str) -> str:
    """Return a text with its keys, tokens and passwords of URLs replaced by ``[secret]``."""
    return _SECRET.sub(REDACTED, text)
