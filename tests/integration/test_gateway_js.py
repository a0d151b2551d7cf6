"""Storage and Auth of the gateway, called by the unmodified supabase-js in Node."""

import asyncio
import json
import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("services.cjs")
POLICY = """
insert into storage.buckets (id, name) values ('pictures', 'pictures');
create policy own_folder on storage.objects for all to authenticated
  using (bucket_id = 'pictures' and (storage.foldername(name))[1] = (select auth.uid())::text);
"""
ANSWERS = {
    "createUser": True,
    "wrongPassword": {"error": "invalid_credentials"},
    "signIn": "bearer",
    "getUser": True,
    "getClaims": "authenticated",
    "updateUser": {"name": "Ada"},
    "refresh": 3600,
    "listUsers": [1, True, True, True],
    "getUserById": {"name": "Ada"},
    "notAdmin": {"error": "not_admin"},
    "otp": {"error": 501},
    "factors": {"error": 501},
    "upload": True,
    "uploadTwice": {"error": "409"},
    "info": ["image/png", 5, {"a": 1}],
    "exists": True,
    "list": ["0.png"],
    "listV2": ["g"],
    "copy": True,
    "move": "Successfully moved",
    "download": "bytes",
    "sign": True,
    "signed": "bytes",
    "signUpload": True,
    "uploadSigned": True,
    "moveToAnotherFolder": {"error": "403"},
    "remove": 3,
    "signTransformed": {"error": "501"},
    "createBucket": True,
    "updateBucket": {"message": "Successfully updated"},
    "getBucket": True,
    "emptyBucket": True,
    "deleteBucket": {"message": "Successfully deleted"},
    "signOut": "out",
    "deleteUser": True,
}


@pytest.mark.extra
async def test_supabase_js_gets_the_expected_answers_from_auth_and_storage(
    gateway, platform, node, node_modules
):
    async with platform.connect() as sql:
        await sql.execute(POLICY)
    environment = {
        **os.environ,
        "NODE_MODULES": str(node_modules),
        "API_URL": gateway,
        "ANON_KEY": platform.settings.publishable_key,
        "SECRET_KEY": platform.settings.secret_key,
    }
    process = await asyncio.create_subprocess_exec(
        node, SCRIPT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output) == ANSWERS
