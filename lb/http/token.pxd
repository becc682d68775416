"""Tokens of cookies and paths: 32 bytes as 43 characters of base64url (RFC 4648 section 5, unpadded)."""


cdef enum:
    TOKEN = 32                        # bytes
    TOKEN_TEXT = 43                   # characters

cdef void write_token(const unsigned char *token, char *text) noexcept nogil
# False: a character is none of base64url, or there is another text for the same bytes.
cdef bint read_token(const char *text, unsigned char *token) noexcept nogil
