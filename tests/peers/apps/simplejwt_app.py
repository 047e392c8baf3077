"""Django REST framework with simplejwt: one view that asks for a user, and the library's own tokens."""

import os
import sys

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["APP_DATABASE"]}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ["APP_SECRET"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    },
    # SIMPLE_JWT is the library's default: HS256 with SECRET_KEY, user_id, token_type.
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.decorators import api_view, authentication_classes, permission_classes  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken  # noqa: E402


@api_view(["GET"])
def protected(request):
    return Response({"user": request.user.username})


# What this app has minted before: only the test asks, on the app's own port.
@api_view(["GET"])
@authentication_classes([])
@permission_classes([])
def mint(request, name):
    user = User.objects.get(username=name)
    return Response({"access": str(AccessToken.for_user(user)), "refresh": str(RefreshToken.for_user(user))})


urlpatterns = [path("protected", protected), path("mint/<name>", mint)]

if not os.path.exists(os.environ["APP_DATABASE"]):
    call_command("migrate", verbosity=0)
    User.objects.create_user("alice", password="correct horse battery")
sys.argv = ["manage.py", "runserver"]
call_command("runserver", f"127.0.0.1:{os.environ['PORT']}", use_reloader=False)
