from django.urls import path
from django.views.generic import RedirectView

from documents import views

urlpatterns = [
    path("", views.index, name="index"),
    path("home/", RedirectView.as_view(pattern_name="index", permanent=True)),
    path("documents/<int:pk>/", views.download, name="download"),
    path("documents.csv", views.export, name="export"),
    path("import/<str:name>", views.receive, name="receive"),
    path("visits/", views.visits, name="visits"),
    path("profile/", views.profile, name="profile"),
    path("request/", views.show_request, name="request"),
    path("hello/<str:name>/", views.hello, name="hello"),
    path("broken/", views.broken, name="broken"),
]
