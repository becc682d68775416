"""Hashes: known answers (so that affinity never moves by accident) and agreement with other implementations."""

import hashlib
import random

import pytest
from compiled.bytes_to_values import data_digest_bytes, digest_bytes, hash128_bytes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from lb.shared import hashing
from lb.shared.hashing import hash64_bytes


def siphash24(key, data, bits=64):
    """SipHash-2-4 written from the paper, as a number; with 128 bits as in the authors' reference code."""
    mask = (1 << 64) - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    if bits == 128:
        v[1] ^= 0xEE

    def rotate(x, n):
        return (x << n | x >> (64 - n)) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    padded = data + b"\0" * (7 - len(data) % 8) + bytes([len(data) & 255])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 255 if bits == 64 else 0xEE
    rounds(4)
    result = v[0] ^ v[1] ^ v[2] ^ v[3]
    if bits == 128:
        v[1] ^= 0xDD
        rounds(4)
        result |= (v[0] ^ v[1] ^ v[2] ^ v[3]) << 64
    return result


def test_is_compiled():
    assert hashing.__file__.endswith(".so")


def test_reference_agrees_with_the_paper():
    assert siphash24(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5  # appendix A


@given(st.binary(max_size=200))
def test_hash64_is_siphash24_under_the_documented_key(data):
    assert hash64_bytes(data) == siphash24(b"tidegate-hash-01", data)


def test_hash64_golden():
    assert hash64_bytes(b"session-42") == siphash24(b"tidegate-hash-01", b"session-42") == 0x819410C63BCDCC35


def test_reference_of_128_bits_agrees_with_that_of_the_authors():
    expected = bytes.fromhex("a3817f04ba25a8e66df67214c7550293")  # vectors_sip128[0]
    assert siphash24(bytes(range(16)), b"", 128).to_bytes(16, "little") == expected


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=200))
def test_hash128_is_siphash24_of_128_bits(key, data):
    assert hash128_bytes(key, data) == siphash24(key, data, 128).to_bytes(16, "little")


@given(st.binary(min_size=32, max_size=32), st.lists(st.binary(max_size=300), max_size=5))
def test_digest_is_keyed_blake2b(key, pieces):
    assert digest_bytes(key, *pieces) == hashlib.blake2b(b"".join(pieces), key=key, digest_size=32).digest()


def test_digest_refuses_a_short_key():
    with pytest.raises(ValueError, match="32 bytes"):
        digest_bytes(b"short", b"data")


def tensor_digest(key, *pieces):
    """What data_digest.pxd says, by another library's GCM."""
    text = b""
    for piece in pieces:
        text += len(piece).to_bytes(8, "little")
        if len(piece) < 512:
            text += piece
            continue
        for number in range(2):
            own = hashlib.blake2b(b"tidegate GHASH key " + bytes([number]), key=key, digest_size=32).digest()
            text += AESGCM(own).encrypt(bytes(12), b"", piece)
    return hashlib.blake2b(text, key=key, digest_size=32).digest()


@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.one_of(st.binary(max_size=600), st.integers(500, 5000).map(random.Random(5).randbytes)), max_size=5),
)
def test_tensors_in_a_digest(key, pieces):
    assert data_digest_bytes(key, *pieces) == tensor_digest(key, *pieces)


def test_secrets_take_turns():
    """More of them than there are keys at hand, and some that share a place."""
    secrets = [bytes([first]) + bytes([number]) * 31 for first in (0, 8, 3) for number in range(7)]
    data = random.Random(1).randbytes(10_000)
    expected = [tensor_digest(secret, data) for secret in secrets]
    for _ in range(2):
        assert [data_digest_bytes(secret, data) for secret in secrets] == expected
    assert len(set(expected)) == len(secrets)


def test_each_bit_of_a_large_tensor_counts():
    key, draw = bytes(range(32)), random.Random(2)
    data = draw.randbytes(100_000)
    seen = {data_digest_bytes(key, data), data_digest_bytes(key, data + b"\0"), data_digest_bytes(key, data[:-1])}
    for _ in range(500):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        seen.add(data_digest_bytes(key, bytes(changed)))
    assert len(seen) >= 500  # of these some may have drawn the same bit
