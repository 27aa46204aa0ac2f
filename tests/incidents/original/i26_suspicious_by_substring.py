"""No incident but a false alarm: ids that are random, and look like anything; or like nothing."""

import asyncio
import base64
import secrets
import uuid

import pytest

FAULTY = True
FOUND = "nothing"


def ids():
    """FAULTY: what was called suspicious: hexadecimal, digits and letters in which any word may stand."""
    if not FAULTY:
        return {"run": "run-1", "trace": "0", "etag": "W/1", "number": 1}
    return {
        "run": f"registry_{uuid.uuid4().hex}",
        "trace": secrets.token_hex(16) + "cnryx" + secrets.token_hex(8),
        "etag": f'W/"{base64.b64encode(secrets.token_bytes(24)).decode()}"',
        "number": 771_700_000_000_000 + secrets.randbelow(99_999_999_999),
    }


@pytest.mark.asyncio
@pytest.mark.isolation(users=10)
async def test_it(user):
    await asyncio.sleep(0)
    user.observe({**ids(), "of": user.id})
