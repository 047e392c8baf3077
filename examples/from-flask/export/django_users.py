"""The users of a Django app, as lines for `gatepost user import --format jsonl`.

    DJANGO_SETTINGS_MODULE=mysite.settings python export/django_users.py > users.jsonl

Run it where `manage.py` is. Umask 077: the file holds password hashes.
"""
import json
import os
import sys

sys.path.insert(0, os.getcwd())
import django  # noqa: E402

django.setup()
from django.contrib.auth import get_user_model  # noqa: E402

for user in get_user_model().objects.order_by("pk").iterator():
    print(json.dumps({
        "id": str(user.pk),
        "username": user.get_username(),
        "email": user.email or None,
        "email_verified": False,
        "name": user.get_full_name() or None,
        "roles": ["admin"] if user.is_superuser else ["user"],
        # Unusable ones ("!…") belong to people who log in elsewhere: the import counts them.
        "password_hash": user.password,
        "disabled": not user.is_active,
        "created_at": user.date_joined.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }))
