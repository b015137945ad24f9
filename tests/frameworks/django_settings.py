"""The Django example's own settings, with views of the tests beside its own."""

from project.settings import *  # noqa: F403 - that is how Django's settings are extended

ROOT_URLCONF = f"{__package__}.django_urls"
